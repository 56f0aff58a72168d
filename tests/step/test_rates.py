"""The learning rate in force is a metric, whatever the rule, under a name that reads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt

STEPS = 3
SCHEDULE = optax.linear_schedule(0.1, 0.0, 10)
LABELS = {"body": "body", "head": "head"}


def loss_fn(params, model_state, batch, rng):
    total = sum((batch * leaf).sum() for leaf in jax.tree.leaves(params))
    return trainkit.Loss(total, len(batch))


def rates_of(tx, **options):
    """The learning rates in the metrics of the third step, and the update of a parameter there."""
    step = trainkit.make_train_step(loss_fn, tx, **options)
    state = trainkit.TrainState.create({"body": jnp.zeros(()), "head": jnp.zeros(())}, tx)
    for _ in range(STEPS):
        before = state
        state, metrics = step(state, np.ones(4, np.float32))
    found = {name: float(m) for name, m in metrics.items() if name.startswith("learning_rate")}
    changed = jax.tree.map(lambda a, b: float(a - b), before.params, state.params)
    return found, changed


@pytest.mark.parametrize(
    ("tx", "rate"),
    [
        (optax.sgd(0.1), 0.1),
        (optax.sgd(SCHEDULE), 0.08),
        (optax.chain(optax.clip(9.0), optax.sgd(SCHEDULE), optax.scale(0.5)), 0.04),
        (optax.chain(optax.trace(0.0), optax.scale_by_schedule(SCHEDULE), optax.scale(-1.0)), 0.08),
        (tt.sgd(SCHEDULE), 0.08),
        (tt.inject(tt.sgd(SCHEDULE)), 0.08),
        (tt.named(clip=tt.clip(9.0), sgd=tt.sgd(0.1)), 0.1),
        (optax.apply_if_finite(optax.sgd(SCHEDULE), 3), 0.08),
        (tt.average_params(optax.sgd(SCHEDULE)), 0.08),
    ],
)
def test_the_rate_is_what_the_gradient_was_multiplied_by(tx, rate):
    found, changed = rates_of(tx)
    assert found == {"learning_rate": pytest.approx(rate)}
    assert changed == {"body": pytest.approx(rate), "head": pytest.approx(rate)}  # of gradient 1


@pytest.mark.parametrize(
    "tx",
    [
        optax.partition({"body": optax.sgd(0.1), "head": optax.sgd(SCHEDULE)}, LABELS),
        optax.partition(
            {"body": optax.sgd(optax.constant_schedule(0.1)), "head": optax.sgd(SCHEDULE)}, LABELS
        ),
        tt.groups([("body", tt.sgd(0.1)), ("^head$", tt.sgd(SCHEDULE))]),
        optax.chain(
            optax.partition({"body": optax.sgd(0.2), "head": optax.sgd(SCHEDULE)}, LABELS),
            optax.partition({"body": optax.scale(0.5), "head": optax.scale(1.0)}, LABELS),
        ),
    ],
)
def test_groups_have_their_names_behind_the_rates(tx):
    found, changed = rates_of(tx)
    assert found == {f"learning_rate/{name}": pytest.approx(x) for name, x in changed.items()}
    assert changed == {"body": pytest.approx(0.1), "head": pytest.approx(0.08)}


def test_what_the_user_reports_goes_before():
    found, _ = rates_of(optax.sgd(0.1), schedules={"learning_rate": lambda step: 7.0})
    assert found == {"learning_rate": 7.0}


def test_rules_that_have_none_or_two_are_not_guessed_at():
    two = lambda a, b: optax.GradientTransformation(
        lambda params: (a.init(params), b.init(params)),
        lambda g, state, params=None: (
            jax.tree.map(jnp.add, a.update(g, state[0])[0], b.update(g, state[1])[0]),
            state,
        ),
    )
    for tx in (optax.scale(1.0), two(optax.sgd(0.1), optax.sgd(0.2))):
        assert rates_of(tx)[0] == {}
