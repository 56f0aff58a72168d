"""Periodic averaging, held against float64 NumPy written from the papers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit.placement import periodic

SIZE, STEPS = 12, 4  # examples of a batch, steps of a round
RATE, DECAY, B1, B2, EPS = 0.1, 0.02, 0.9, 0.99, 1e-8


def loss_fn(params, model_state, batch, rng):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    loss = (error**2 * batch["weight"]).sum()
    hits = (jnp.abs(error) < 1).astype(error.dtype)
    return trainkit.Loss(
        loss, batch["weight"].sum(), metrics={"hits": (hits.sum(), len(error) * 1.0)}
    )


def make_params():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=5), "b": rng.normal(size=())}


def make_rounds(count, steps=STEPS, even=False, seed=1):
    """Batches [steps, SIZE, ...]; unless even, examples weigh differently, some nothing."""
    rng = np.random.default_rng(seed)
    return [
        {
            "x": rng.normal(size=(steps, SIZE, 5)),
            "y": rng.normal(size=(steps, SIZE)),
            "weight": np.ones((steps, SIZE)) if even else rng.integers(0, 4, (steps, SIZE)) * 1.0,
        }
        for _ in range(count)
    ]


def fresh(tx, **options):
    return trainkit.TrainState.create(jax.tree.map(jnp.asarray, make_params()), tx, **options)


def run(tx, rounds, placement, steps=STEPS, **options):
    """The state after some rounds, and the metrics of each."""
    step = trainkit.make_train_step(
        loss_fn, tx, placement=placement, steps_per_call=steps, **options
    )
    state, rows = step.place(fresh(tx)), []
    for batch in rounds:
        state, metrics = step(state, batch)
        rows.append(jax.device_get(metrics))
    assert step.compiles == 1
    return state, rows


# -- the reference ---------------------------------------------------------------------------------


def gradient(params, batch):
    """Σ total, Σ weight and the gradient of their ratio."""
    x, y, w = batch["x"], batch["y"], batch["weight"]
    error = x @ params["w"] + params["b"] - y
    grads = {"w": x.T @ (2 * w * error), "b": (2 * w * error).sum()}
    return (w * error**2).sum(), w.sum(), {k: g / max(w.sum(), 1e-300) for k, g in grads.items()}


class Descent:
    def init(self, params):
        return {}

    def update(self, grads, state, params):
        return {k: -RATE * g for k, g in grads.items()}, state


class AdamW:
    def init(self, params):
        zeros = lambda: {k: np.zeros_like(p) for k, p in params.items()}
        return {"t": 0, "m": zeros(), "v": zeros()}

    def update(self, grads, state, params):
        t = state["t"] + 1
        m = {k: B1 * state["m"][k] + (1 - B1) * g for k, g in grads.items()}
        v = {k: B2 * state["v"][k] + (1 - B2) * g**2 for k, g in grads.items()}
        u = {
            k: -RATE
            * (m[k] / (1 - B1**t) / (np.sqrt(v[k] / (1 - B2**t)) + EPS) + DECAY * params[k])
            for k in grads
        }
        return u, {"t": t, "m": m, "v": v}


def averaged(trees, weights):
    share = np.asarray(weights) / np.sum(weights)
    if isinstance(trees[0], dict):
        return {k: averaged([t[k] for t in trees], weights) for k in trees[0]}
    return trees[0] if isinstance(trees[0], int) else sum(s * t for s, t in zip(share, trees))


def reference(rule, rounds, replicas, outer=None, moments="mean"):
    """Parameters and optimizer state after the rounds, and the loss of each inner step."""
    params = make_params()
    state, velocity = rule.init(params), {k: np.zeros_like(p) for k, p in params.items()}
    each, losses = SIZE // replicas, []
    for batches in rounds:
        ends, weights, rows = [], [], []
        for r in range(replicas):
            own, held, sums = dict(params), state, []
            for step in range(len(batches["y"])):
                part = {k: x[step, r * each : (r + 1) * each] for k, x in batches.items()}
                total, weight, grads = gradient(own, part)
                updates, held = rule.update(grads, held, own)
                own = {k: own[k] + updates[k] for k in own}
                sums.append((total, weight))
            ends.append((own, held))
            rows.append(sums)
            weights.append(sum(w for _, w in sums))
        losses.append([t / w for t, w in np.sum(rows, axis=0)])
        mean = averaged([own for own, _ in ends], weights)
        states = [held for _, held in ends]
        state = averaged(states, weights) if moments == "mean" else states[0]
        if outer is None:
            params = mean
            continue
        rate, momentum = outer  # SGD with Nesterov's momentum, on θ − mean
        for k in params:
            delta = params[k] - mean[k]
            velocity[k] = momentum * velocity[k] + delta
            params[k] = params[k] - rate * (delta + momentum * velocity[k])
    return params, state, np.array(losses), velocity


ADAMW = lambda: tt.adamw(RATE, b1=B1, b2=B2, eps=EPS, weight_decay=DECAY)


def assert_near(got, want, rtol=1e-11):
    """float64 throughout: some hundred operations, each of relative error 1e-16."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), got, want)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", ["descent", "adamw"])
def test_plain_averaging_is_that_of_numpy(x64, rule, replicas):
    tx, by_hand = (tt.sgd(RATE), Descent()) if rule == "descent" else (ADAMW(), AdamW())
    state, rows = run(tx, make_rounds(3), periodic(replicas))
    params, moments, losses, _ = reference(by_hand, make_rounds(3), replicas)
    assert_near(state.params, params)
    assert_near(np.array([row["loss"] for row in rows]), losses)
    if rule == "adamw":
        assert_near(tt.get(state, "mu"), moments["m"])
        assert_near(tt.get(state, "nu"), moments["v"])
    assert int(state.step) == 12


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("moments", ["mean", "first"])
def test_diloco_is_that_of_numpy(x64, replicas, moments):
    tx = tt.lookahead(ADAMW(), STEPS, outer=optax.sgd(0.7, momentum=0.9, nesterov=True))
    state, rows = run(tx, make_rounds(4), periodic(replicas, moments=moments))
    params, held, losses, velocity = reference(
        AdamW(), make_rounds(4), replicas, outer=(0.7, 0.9), moments=moments
    )
    assert_near(state.params, params)
    assert_near(np.array([row["loss"] for row in rows]), losses)
    assert_near(tt.get(state, "mu"), held["m"])
    assert_near(state.opt_state.slow, params)
    assert_near(optax.tree_utils.tree_get(state.opt_state.outer_state, "trace"), velocity)


@pytest.mark.parametrize("around", ["chain", "groups", "masked", "factor"])
def test_an_outer_step_is_the_same_wherever_it_is_in_the_rule(x64, around):
    """A factor on all updates slows the inner steps, and not the outer one."""
    outer = lambda: optax.sgd(0.7, momentum=0.9, nesterov=True)
    diloco = lambda tx: tt.lookahead(tx, STEPS, outer=outer())
    wraps = {
        "chain": tt.chain(tt.clip_by_global_norm(1e9), diloco(ADAMW())),
        "groups": tt.groups([("w", diloco(ADAMW())), (".*", diloco(ADAMW()))]),
        "masked": optax.masked(diloco(ADAMW()), {"w": True, "b": True}),
        "factor": optax.chain(diloco(tt.sgd(2 * RATE)), optax.scale(0.5)),
    }
    state, _ = run(wraps[around], make_rounds(3), periodic(4))
    rule = Descent() if around == "factor" else AdamW()
    params, *_ = reference(rule, make_rounds(3), 4, outer=(0.7, 0.9))
    assert_near(state.params, params)


# -- what it is equal to ---------------------------------------------------------------------------


def noisy(params, model_state, batch, rng):
    """A loss that depends on random numbers, with a running mean and a counter."""
    noise = jax.random.normal(rng, batch["y"].shape, batch["y"].dtype)
    error = batch["x"] @ params["w"] + params["b"] - batch["y"] + noise
    kept = {
        "mean": 0.9 * model_state["mean"] + 0.1 * error.mean(),
        "seen": model_state["seen"] + 1,
    }
    return trainkit.Loss((error**2 * batch["weight"]).sum(), batch["weight"].sum(), kept)


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("replicas", [2, 4])
def test_one_step_of_gradient_descent_a_call_is_synchronous_training(x64, replicas, microbatches):
    ends = []
    for placement in ("shard_map", "periodic"):
        step = trainkit.make_train_step(
            noisy, tt.sgd(RATE), placement=placement, devices=replicas, microbatches=microbatches
        )
        model_state = {"mean": jnp.zeros(()), "seen": jnp.zeros((), jnp.int32)}
        state = step.place(fresh(tt.sgd(RATE), model_state=model_state, rng=5))
        for batch in make_rounds(5, 1):
            state, metrics = step(state, jax.tree.map(lambda x: x[0], batch))
        ends.append((state.params, state.model_state, metrics["loss"], state.step))
    # The mean of steps is the step of the mean, up to the rounding of float64.
    assert_near(*ends)


def test_one_replica_is_one_device(x64):
    tx = tt.lookahead(ADAMW(), STEPS, outer=tt.nesterov(0.7, 0.9))
    alone, rows = run(tx, make_rounds(3), "single")
    state, found = run(tx, make_rounds(3), periodic(1))
    assert_near(state.params, alone.params)
    assert_near(jax.tree.leaves(state.opt_state), jax.tree.leaves(alone.opt_state))
    for row, other in zip(found, rows, strict=True):
        assert_near(row, other)


def test_the_state_is_the_same_on_every_device():
    tx = tt.lookahead(ADAMW(), STEPS, outer=tt.nesterov(0.7, 0.9))
    rounds = jax.tree.map(np.float32, make_rounds(2))
    state, _ = run(tx, rounds, periodic(4), skip_nonfinite=True)
    for leaf in jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        assert all(np.array_equal(copies[0], copy) for copy in copies)


def test_parameters_that_nobody_changes_stay_bitwise():
    """Also with three replicas, whose mean of equal numbers is rounded."""
    tx = tt.groups([("b", "freeze"), (".*", ADAMW())])
    rounds = jax.tree.map(np.float32, make_rounds(5))
    state, _ = run(tx, rounds, periodic(3))
    assert float(state.params["b"]) == np.float32(make_params()["b"])
    assert float(tt.get(state, "learning_rate")) == np.float32(RATE)
