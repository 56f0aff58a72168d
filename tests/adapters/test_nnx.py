"""NNX modules: the same functions as by hand, and the module itself left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import trainkit

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
TX = optax.sgd(0.1)


class Net(nnx.Module):
    def __init__(self, rngs, rate=0.0):
        self.layers = nnx.List([nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)])
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(nnx.relu(self.norm(self.layers[0](x)))))


def data(size=32):
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.normal(size=(size, 8))).astype(np.float32)
    return x, rng.integers(0, 3, size).astype(np.int32)


def close(a, b, rtol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


@pytest.mark.parametrize("placement", ["single", "jit"])
def test_a_step_is_that_of_plain_nnx(placement):
    module = Net(nnx.Rngs(0))
    model = trainkit.from_nnx(module, CROSS_ENTROPY)
    batch = data()
    state = model.state(TX, batch)
    step = trainkit.make_train_step(model, TX, placement=placement)
    new, metrics = step(step.place(state), batch)

    untouched = nnx.clone(module)
    loss, grads = nnx.value_and_grad(lambda m: CROSS_ENTROPY(m(batch[0]), batch[1]).mean())(module)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    want = jax.tree.map(
        lambda p, g: p - 0.1 * g, state.params, nnx.to_pure_dict(nnx.state(grads, nnx.Param))
    )
    close(new.params, want)
    # Calling the module by hand has updated its statistics; the step kept them in the state.
    close(new.model_state["norm"]["mean"], module.norm.mean[...])
    close(state.model_state["norm"]["mean"], untouched.norm.mean[...])
    assert not np.allclose(module.norm.mean[...], untouched.norm.mean[...])


def test_dropout_is_drawn_anew_each_step_and_off_in_evaluation():
    still = optax.sgd(0.0)
    module = Net(nnx.Rngs(0), rate=0.5)
    model = trainkit.from_nnx(module, CROSS_ENTROPY)
    batch = data()
    first = model.state(still, batch)
    step = trainkit.make_train_step(model, still)
    state, one = step(first, batch)
    _, two = step(state, batch)
    _, again = step(first, batch)
    assert float(one["loss"]) == float(again["loss"]) != float(two["loss"])
    module.eval()
    close(model.predict(first, batch), module(batch[0]))
    found = trainkit.make_eval_step(model).over(first, [batch, data(5)])
    logits = np.concatenate([module(x) for x in (batch[0], data(5)[0])])
    labels = np.concatenate([batch[1], data(5)[1]])
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())


@pytest.mark.parametrize("placement", ["pmap", "fsdp"])
def test_dropout_and_statistics_on_several_devices(placement):
    model = trainkit.from_nnx(Net(nnx.Rngs(0), rate=0.2), CROSS_ENTROPY)
    batch = data()
    step = trainkit.make_train_step(
        model, TX, placement=placement, microbatches=2, precision="bf16", steps_per_call=3
    )
    several = jax.tree.map(lambda x: np.stack([x] * 3), batch)
    state = step.place(model.state(TX, batch))
    for _ in range(4):
        state, metrics = step(state, several)
    assert metrics["loss"].shape == (3,)
    assert metrics["loss"][-1] < 1.0986  # log 3, where guessing is
    assert step.compiles == 1
    assert state.params["layers"][0]["kernel"].dtype == jnp.float32
    assert state.model_state["norm"]["mean"].dtype == jnp.float32
