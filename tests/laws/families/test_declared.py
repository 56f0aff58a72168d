"""What a factory declares has an effect, and what a state holds was written."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from tests.laws.test_reproducers import runs_and_fails
from trainkit import laws


def check(make, law="hyper-parameters", **claims):
    return laws.check(make, claims=claims, laws=[law], examples=0)


def wrong_decay(lr=0.1, momentum=0.9, weight_decay=0.01):
    del weight_decay
    return optax.sgd(lr, momentum)


def needs_a_rate(learning_rate, b1=0.9, *, weight_decay=0.0):
    del weight_decay
    return optax.sgd(learning_rate, b1)


def clipped(lr=0.1, bound=1e6, guard=3):
    return optax.apply_if_finite(optax.chain(optax.clip(bound), optax.sgd(lr)), guard)


@pytest.mark.parametrize(("make", "claims"), [
    (wrong_decay, {}),
    (lambda: needs_a_rate(0.1), {"hyperparameters": needs_a_rate}),
])  # fmt: skip
def test_a_weight_decay_without_effect_is_found(make, claims):
    (failure,) = check(make, **claims).failures
    assert "weight_decay=" in failure.message
    assert "no effect" in failure.message
    runs_and_fails(failure)


@pytest.mark.parametrize(("make", "claims"), [
    (clipped, {}),
    (clipped, {"hyperparameters": ["guard"]}),
    (lambda: tt.sgd(0.1), {"hyperparameters": tt.sgd}),
    (lambda: optax.rmsprop(0.1), {"hyperparameters": optax.rmsprop}),
    (functools.partial(optax.scale_by_lion, b1=0.8), {}),  # smooth_beta, of another mode
    (optax.contrib.prodigy, {}),  # estim_lr_coef, once the estimate is larger than the first
    (lambda weight_decay=0.01: optax.contrib.mechanize(optax.sgd(0.1), weight_decay), {}),  # < 6e-8
])  # fmt: skip
def test_a_late_effect_is_one(make, claims):
    report = check(make, **claims)
    assert report.results[0].outcome == "holds"


def test_a_key_is_no_count():
    laws.check(lambda: optax.add_noise(0.1, 0.5, 0), laws=["counts"]).raise_for_failures()


def test_a_rule_without_numbers_is_left_alone():
    assert check(lambda: optax.sgd(0.1)).results[0].outcome == "not applicable"


@pytest.mark.parametrize(
    "empty", [lambda p: jnp.empty_like(p), lambda p: jnp.asarray(np.empty(p.shape, "f4"))]
)
def test_memory_that_nobody_wrote_is_found(empty):
    def make():
        init = lambda p: {k: empty(x) for k, x in p.items()}
        return optax.GradientTransformation(init, lambda g, s, p=None: (g, g))

    (failure,) = check(make, "memory").failures
    assert "take zeros" in failure.message
    runs_and_fails(failure)
    assert np.empty.__name__ == "empty"
    assert check(lambda: tt.adam(0.1), "memory").ok
