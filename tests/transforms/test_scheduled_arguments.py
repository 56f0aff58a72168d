"""Schedules as arguments of rules: what is none, and which rules take one only injected."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from trainkit import schedules

PARAMS = {"w": jnp.arange(9.0).reshape(3, 3) / 10}


def updated(tx):
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]["w"]


@pytest.mark.parametrize(
    ("rate", "match"),
    [
        (schedules.cosine, r"adam: learning_rate must be .* call it: cosine\(…\)"),
        (schedules.constant, "a number, not a function"),
        (lambda step: "fast", "a number, not 'fast'"),
        (lambda step: jnp.ones(3), r"not an array of shape \(3,\)"),
        (lambda step: None, "not None"),
    ],
)
@pytest.mark.parametrize("make", [tt.adam, tt.inject(tt.adam), tt.inject(optax.adam)])
def test_what_is_no_schedule_is_refused_by_the_rule(make, rate, match):
    with pytest.raises(TypeError, match=match):
        make(rate)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (lambda value: tt.adam(1e-2, b1=value), "adam: b1"),
        (lambda value: tt.l2(value), "l2: strength"),
        (lambda value: tt.decoupled_weight_decay(1e-2, value), "weight_decay"),
        (lambda value: tt.sgd(1e-2, momentum=value), "sgd: momentum"),
        (lambda value: tt.clip_by_global_norm(value), "max_norm"),
        (lambda value: tt.soft_threshold(value, 1e-3), "learning_rate"),
    ],
)
def test_a_schedule_that_only_inject_can_use(rule, name):
    scheduled = rule(schedules.constant(0.9))
    with pytest.raises(TypeError, match=rf"{name} must be a number, not a schedule; inject"):
        scheduled.init(PARAMS)
    wanted = updated(rule(0.9))
    for tx in (tt.inject(scheduled), tt.named(part=scheduled)):  # what the message says
        np.testing.assert_allclose(updated(tx), wanted, rtol=1e-5)


@pytest.mark.parametrize("rule", [tt.muon, tt.adamw, tt.schedule_free_adamw, tt.lamb])
def test_a_schedule_of_the_decay_where_the_rule_takes_it(rule):
    results = [updated(rule(1e-2, weight_decay=w)) for w in (0.1, schedules.constant(0.1))]
    np.testing.assert_allclose(*results, rtol=1e-6)
