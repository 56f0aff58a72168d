"""The least that must work on every supported line of Python and JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit


def test_state_is_a_pytree_of_five_fields():
    state = trainkit.TrainState.create({"w": jnp.ones(3)}, optax.sgd(0.1), rng=0)
    paths = {path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert paths == {"step", "params", "rng"}  # sgd and an empty model state hold no leaves
    doubled = jax.jit(lambda s: s.replace(step=s.step + 1))(state)
    assert isinstance(doubled, trainkit.TrainState)
    assert int(doubled.step) == 1


@pytest.mark.parametrize("placement", ["single", "pmap", "shard_map", "jit", "fsdp", "periodic"])
def test_a_step_lowers_a_loss(placement):
    def loss_fn(params, model_state, batch, rng):
        error = batch["x"] @ params["w"] - batch["y"]
        return trainkit.Loss((error**2).sum(), len(error))

    tx = trainkit.transforms.named(adam=trainkit.transforms.adamw(0.1))
    step = trainkit.make_train_step(loss_fn, tx, placement=placement, microbatches=2)
    state = step.place(trainkit.TrainState.create({"w": jnp.zeros(4)}, tx))
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    batch = {"x": x, "y": x @ np.array([1, -1, 2, 0], np.float32)}
    losses = []
    for _ in range(20):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] / 2
    assert metrics["learning_rate"] == np.float32(0.1)
    assert step.compiles == 1


def test_a_plan_keeps_the_function():
    def mlp(params, x):
        return jax.nn.gelu(x @ params["in"] + params["b"]) @ params["out"]

    def shapes(width):
        return {"in": (3, width), "b": (width,), "out": (width, 2)}

    rng = np.random.default_rng(0)
    small = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes(4).items()}
    big = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes(7).items()}
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    wide = trainkit.growth.plan(mlp, mlp, small, big, x).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(mlp(wide, x), mlp(small, x), atol=1e-5)


def test_laws_tell_right_from_wrong():
    some = ["purity", "oracle"]
    assert trainkit.laws.check(
        optax.sgd(0.1), like="sgd", hyperparams={"learning_rate": 0.1}, laws=some
    ).ok
    wrong = optax.scale(0.1)  # uphill
    report = trainkit.laws.check(wrong, like="sgd", hyperparams={"learning_rate": 0.1}, laws=some)
    assert [failure.law for failure in report.failures] == ["oracle"]
