"""Statistics for other parameters than those that trained: the exact means, and what they mend."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import trainkit
import trainkit.transforms as tt
from trainkit.data import Sampler

SQUARES = lambda outputs, batch: optax.squared_error(outputs[:, 0], batch["y"])


class Net(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train: bool):
        for _ in range(2):
            x = nn.Dense(8)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x))
        return nn.Dense(1)(x)


class Other(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def data(size=96, seed=0):
    rng = np.random.default_rng(seed)
    x = (1 + 2 * rng.normal(size=(size, 4))).astype(np.float32)
    return {"x": x, "y": np.tanh(x[:, 0] + 0.5 * x[:, 1]).astype(np.float32)}


def parts(whole, *sizes):
    edges = itertools.pairwise(np.cumsum([0, *sizes]))
    return [{name: x[a:b] for name, x in whole.items()} for a, b in edges]


@pytest.mark.parametrize("momentum", [0.9, 0.999, 0.0])
def test_statistics_are_the_exact_means_over_the_batches(momentum):
    model, tx = trainkit.from_linen(Net(momentum), SQUARES), optax.sgd(0.1)
    batches = parts(data(), 16, 32, 48)
    state = model.state(tx, batches[0])
    state = state.replace(model_state=jax.tree.map(lambda x: x + 5, state.model_state))  # stale
    found = trainkit.refresh_statistics(model, state, iter(batches)).model_state["batch_stats"]

    def of(batch):  # with a momentum of 0 Flax stores the batch's own
        variables = {"params": state.params, **state.model_state}
        return Net(0.0).apply(variables, batch["x"], train=True, mutable=["batch_stats"])[1]

    each = [
        jax.tree.map(lambda x: np.asarray(x, np.float64), of(b)["batch_stats"]) for b in batches
    ]
    want = jax.tree.map(lambda a, b, c: (16 * a + 32 * b + 48 * c) / 96, *each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6), found, want)


def test_nnx_and_every_placement_give_the_same_and_leave_leaves_where_they_were():
    model, tx = trainkit.from_nnx(Other(), SQUARES), optax.sgd(0.1)
    batches = parts(data(), 48, 48)
    state = model.state(tx, batches[0])
    want = trainkit.refresh_statistics(model, state, batches).model_state
    np.testing.assert_allclose(want["norm"]["var"], np.mean([
        np.var(b["x"] @ np.asarray(state.params["first"]["kernel"]), 0) for b in batches
    ], 0), rtol=1e-5)  # fmt: skip
    for placement in ("pmap", "fsdp"):
        step = trainkit.make_train_step(model, tx, placement=placement)
        placed = step.place(state)
        found = trainkit.refresh_statistics(model, placed, batches)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found.model_state, want
        )
        step(found, batches[0])  # which refuses a leaf that lies elsewhere


def test_what_is_no_running_mean_goes_through_the_batches_one_after_another():
    def loss_fn(params, model_state, batch, rng):
        s, x = model_state, batch.mean() * params["w"]
        new = {
            "mean": 0.75 * s["mean"] + 0.25 * x,
            "count": s["count"] + 1,
            "sum": s["sum"] + x,  # never forgets
            "on another": 0.5 * s["on another"] + 0.5 * x * s["mean"],
            "square": s["square"] ** 2 / 2,
            "constant": s["constant"],
        }
        return trainkit.Loss(x, 1.0, new)

    floats = dict.fromkeys(("mean", "sum", "on another", "square", "constant"), jnp.float32(1))
    model_state = floats | {"count": jnp.int32(7)}
    state = trainkit.TrainState.create({"w": jnp.ones(())}, optax.sgd(1.0), model_state=model_state)
    batches = [np.float32([1.0, 3.0]), np.float32([4.0, 8.0])]
    found = trainkit.refresh_statistics(loss_fn, state, batches).model_state
    assert found["mean"] == 4
    assert (found["count"], found["sum"], found["constant"]) == (9, 9, 1)
    assert found["square"] == 0.125
    assert found["on another"] == 0.25  # of a mean that stays at 0 meanwhile
    with pytest.raises(ValueError, match="no batch"):
        trainkit.refresh_statistics(loss_fn, state, [])
    bare = state.replace(model_state={})
    assert trainkit.refresh_statistics(loss_fn, bare, []) is bare


@pytest.fixture(scope="module")
def trained():
    """A model, its averages in the place of its parameters, and the data."""
    model, tx = trainkit.from_linen(Net(), SQUARES), tt.average_params(optax.sgd(0.3), "swa")
    step = trainkit.make_train_step(model, tx)
    sampler = Sampler(data(), 32, seed=1)
    evaluate = trainkit.make_eval_step(model)
    seen = []

    def evaluation(state):
        seen.append(state)
        return evaluate.over(state, [data(seed=9)])

    result = trainkit.fit(
        step, model.state(tx, data()), sampler, steps=60, eval_every=30, evaluate=evaluation,
        averages=3, progress=False,
    )  # fmt: skip
    return model, sampler, evaluate, result, seen


def test_averages_evaluated_with_stale_statistics_are_wrong_and_with_refreshed_ones_right(trained):
    model, sampler, evaluate, result, _ = trained
    mean = tt.swap(result.state)
    stale = evaluate.over(mean, [data(seed=9)])["loss"]
    epoch = [sampler.draw(p)[0] for p in ((7, 0), (7, 32), (7, 64))]
    refreshed = trainkit.refresh_statistics(model, mean, epoch)
    right = evaluate.over(refreshed, [data(seed=9)])["loss"]
    # The model in training mode, on all of the data at once, has no statistics to be stale.
    whole = trainkit.refresh_statistics(model, mean, [data()])
    assert right == pytest.approx(evaluate.over(whole, [data(seed=9)])["loss"], rel=0.05)
    assert stale > 1.2 * right


def test_fit_evaluates_averages_with_statistics_of_the_next_batches(trained):
    model, sampler, evaluate, result, seen = trained
    next_ones = [sampler.draw(p)[0] for p in ((20, 0), (20, 32), (20, 64))]
    want = trainkit.refresh_statistics(model, tt.swap(result.state), next_ones)
    assert result.evaluation["loss"] == evaluate.over(want, [data(seed=9)])["loss"]
    assert len(seen) == 2
    np.testing.assert_array_equal(  # and training goes on from the parameters themselves
        tt.averaged(result.state)["Dense_2"]["bias"], seen[-1].params["Dense_2"]["bias"]
    )
    assert not np.array_equal(
        result.state.params["Dense_2"]["bias"], seen[-1].params["Dense_2"]["bias"]
    )


def test_averages_that_cannot_be_evaluated_are_refused_before_anything_is_computed():
    model, tx = trainkit.from_linen(Net(), SQUARES), tt.average_params(optax.sgd(0.3))
    state, step = model.state(tx, data()), trainkit.make_train_step(model, tx)
    fit = lambda *args, **more: trainkit.fit(*args, steps=1, progress=False, **more)
    with pytest.raises(ValueError, match="average_params"):
        fit(step, model.state(optax.sgd(0.1), data()), Sampler(data(), 32), averages=True)
    with pytest.raises(ValueError, match=r"draw.*refresh_statistics\(model"):
        fit(step, state, iter([data()]), averages=True)
    with pytest.raises(ValueError, match="averages must be an integer of at least 1, not 0"):
        fit(step, state, Sampler(data(), 32), averages=0)
