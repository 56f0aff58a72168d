"""Evaluation counts every example once, whatever the batches' sizes and the placement."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit

TX = optax.sgd(0.1)


def loss_fn(params, model_state, batch, rng):
    losses = (batch["x"] @ params["w"] - batch["y"]) ** 2
    hits = (losses < 1).astype(jnp.float32)
    metrics = {"hits": hits.sum(), "first": (batch["x"][:, 0].sum(), losses.size)}
    return trainkit.Loss((losses * batch["weight"]).sum(), batch["weight"].sum(), None, metrics)


def data(size=53):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(size, 3)).astype(np.float32),
        "y": rng.normal(size=size).astype(np.float32),
        "weight": rng.random(size).astype(np.float32),
    }


@pytest.mark.parametrize("placement", ["single", "pmap", "shard_map", "jit", "fsdp", "periodic"])
def test_uneven_batches_add_up_to_the_whole(placement):
    step = trainkit.make_train_step(loss_fn, TX, placement=placement)
    state = step.place(trainkit.TrainState.create({"w": jnp.array([1.0, -2.0, 0.5])}, TX))
    whole = data()
    batches = [jax.tree.map(lambda x, i=i: x[i : i + 16], whole) for i in range(0, 53, 16)]
    evaluate = trainkit.make_eval_step(loss_fn, placement=placement)
    found = evaluate.over(state, iter(batches))
    losses = (whole["x"].astype(np.float64) @ [1.0, -2.0, 0.5] - whole["y"]) ** 2
    weight = whole["weight"].sum(dtype=np.float64)
    want = {
        "loss": (losses * whole["weight"]).sum() / weight,
        "hits": (losses < 1).sum() / weight,
        "first": whole["x"][:, 0].mean(dtype=np.float64),
    }
    assert found == pytest.approx(want, rel=1e-6)
    assert trainkit.make_eval_step(loss_fn).over(state, batches) == found  # where the state is
    sums = evaluate(state, batches[-1])
    assert float(sums["first"][1]) == 5


def test_evaluation_does_not_wait_for_the_device_between_batches():
    evaluate = trainkit.make_eval_step(loss_fn, placement="jit")
    step = trainkit.make_train_step(loss_fn, TX, placement="jit")
    state = step.place(trainkit.TrainState.create({"w": jnp.ones(3)}, TX))
    batch = data(16)
    evaluate(state, batch)
    with jax.transfer_guard_device_to_host("disallow"):
        evaluate(state, batch)


def test_a_metric_without_weight_is_nan():
    seen = lambda params, *_: trainkit.Loss(params["w"].sum(), 1, None, {"rare": (0.0, 0.0)})
    state = trainkit.TrainState.create({"w": jnp.ones(3)}, TX)
    found = trainkit.make_eval_step(seen).over(state, [data(4)])
    assert found["loss"] == 3
    assert np.isnan(found["rare"])


def test_nothing_to_evaluate_on():
    evaluate = trainkit.make_eval_step(loss_fn)
    state = trainkit.TrainState.create({"w": jnp.ones(3)}, TX)
    with pytest.raises(ValueError, match="no batch"):
        evaluate.over(state, [])
    empty = data(4)
    empty["weight"][:] = 0
    with pytest.raises(ValueError, match="weights of all batches sum to 0"):
        evaluate.over(state, [empty])


def test_a_state_of_another_placement_is_refused_with_what_helps():
    batch = data(16)
    step = trainkit.make_train_step(loss_fn, TX, placement="jit", devices=4)
    fresh = trainkit.TrainState.create({"w": jnp.ones(3)}, TX)
    elsewhere = trainkit.make_train_step(loss_fn, TX).place(fresh)
    evaluate = trainkit.make_eval_step(loss_fn, placement="jit", devices=4)
    with pytest.raises(ValueError, match=r"state/params/w is on 1 device.*step\.place\(state\)"):
        evaluate(elsewhere, batch)
    anywhere = trainkit.make_eval_step(loss_fn).over(elsewhere, [batch])
    placed = evaluate.over(step.place(elsewhere), [batch])
    assert placed == pytest.approx(anywhere, rel=1e-5)
    assert evaluate.over(fresh, [batch]) == pytest.approx(anywhere, rel=1e-5)
