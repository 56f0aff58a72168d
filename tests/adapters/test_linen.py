"""Linen modules: dropout, batch statistics and modes, against the module called by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
TX = optax.sgd(0.1)


class Net(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(16)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(3)(x))


def data(size=32, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": (3 + 2 * rng.normal(size=(size, 8))).astype(np.float32),
        "label": rng.integers(0, 3, size).astype(np.int32),
        "weight": rng.random(size).astype(np.float32),
    }


def by_hand(state, batch):
    """The step in plain Flax: (loss, params, batch statistics)."""

    def loss(params):
        variables = {"params": params, **state.model_state}
        logits, new = Net().apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        losses = CROSS_ENTROPY(logits, batch["label"])
        return (losses * batch["weight"]).sum() / batch["weight"].sum(), new

    (value, new), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    return value, params, new["batch_stats"]


def close(a, b, rtol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


@pytest.mark.parametrize("placement", ["single", "jit", "fsdp"])
def test_batch_norm_sees_the_whole_batch(placement):
    model = trainkit.from_linen(Net(), CROSS_ENTROPY)
    batch = data()
    state = model.state(TX, batch)
    loss, params, stats = by_hand(state, batch)
    step = trainkit.make_train_step(model, TX, placement=placement)
    new, metrics = step(step.place(state), batch)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    close(new.params, params)
    close(new.model_state["batch_stats"], stats)


@pytest.mark.parametrize(
    ("placement", "microbatches"), [("pmap", 1), ("shard_map", 1), ("jit", 2), ("fsdp", 2)]
)
def test_batch_statistics_are_averaged_over_devices(placement, microbatches):
    model = trainkit.from_linen(Net(), CROSS_ENTROPY)
    batch = data()
    state = model.state(TX, batch)
    stats = []
    for device in range(8):
        rows = {k: v[4 * device : 4 * device + 4] for k, v in batch.items()}
        mine = state.model_state
        for turn in range(microbatches):
            part = {k: v[turn::microbatches] for k, v in rows.items()}
            mine = {"batch_stats": by_hand(state.replace(model_state=mine), part)[2]}
        stats.append(mine["batch_stats"])
    want = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *stats)
    step = trainkit.make_train_step(model, TX, placement=placement, microbatches=microbatches)
    new, _ = step(step.place(state), batch)
    close(new.model_state["batch_stats"], want)


def test_dropout_is_drawn_anew_each_step_and_off_in_evaluation():
    still = optax.sgd(0.0)
    model = trainkit.from_linen(Net(rate=0.5), CROSS_ENTROPY)
    batch = data()
    step = trainkit.make_train_step(model, still)
    first = model.state(still, batch)
    state, one = step(first, batch)
    _, two = step(state, batch)
    _, again = step(first, batch)
    assert float(one["loss"]) == float(again["loss"])
    assert float(one["loss"]) != float(two["loss"])
    evaluate = trainkit.make_eval_step(model)
    fixed = first.replace(step=first.step + 1, rng=jax.random.key(99))
    found = evaluate.over(first, [batch])
    assert found == evaluate.over(fixed, [batch])
    variables = {"params": first.params, **first.model_state}
    logits = Net().apply(variables, batch["image"], train=False)
    close(model.predict(first, batch), logits)
    hits = (np.asarray(logits).argmax(-1) == batch["label"]) * batch["weight"]
    assert found["accuracy"] == pytest.approx(hits.sum() / batch["weight"].sum(), rel=1e-6)


def test_a_module_that_says_deterministic():
    model = trainkit.from_linen(Deterministic(), CROSS_ENTROPY)
    batch = data()
    state = model.state(TX, batch)
    assert state.model_state == {}
    step = trainkit.make_train_step(model, TX)
    _, one = step(state, batch)
    assert float(one["loss"]) != trainkit.make_eval_step(model).over(state, [batch])["loss"]


def test_bf16_under_strict_promotion_keeps_float32_statistics():
    model = trainkit.from_linen(Net(rate=0.1), CROSS_ENTROPY)
    batch = data()
    step = trainkit.make_train_step(model, TX, precision="bf16", microbatches=2)
    state, metrics = step(model.state(TX, batch), batch)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.model_state))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    assert np.isfinite(metrics["loss"])


def test_a_mean_loss_is_refused_before_anything_compiles():
    model = trainkit.from_linen(Net(), lambda out, batch: out.mean())
    step = trainkit.make_train_step(model, TX)
    with pytest.raises(ValueError, match="remove the mean"):
        step(model.state(TX, data()), data())
    assert step.compiles == 0
