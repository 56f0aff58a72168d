"""Labels and weights of a batch: what is said, what is found, and what is refused."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import trainkit
from tests.adapters.weighed import weighed
from trainkit.adapters.batches import read_by
from trainkit.data import pad_batch

softmax = optax.softmax_cross_entropy_with_integer_labels
TX = optax.sgd(0.1)
rng = np.random.default_rng(0)
X = rng.normal(size=(8, 4)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2, 2, 2], np.int32)
Z = np.array([2, 2, 1, 1, 0, 0, 0, 0], np.int32)
W = np.array([1, 0, 2, 1, 0, 1, 1, 0.5], np.float32)
MASK = W > 0


class Sum(nn.Module):
    """Of two inputs."""

    @nn.compact
    def __call__(self, a, b):
        return nn.Dense(3)(a + (b if b.ndim > 1 else b[:, None].astype(jnp.float32)))


def metrics_of(model, batch, **options):
    step = trainkit.make_train_step(model, TX, **options)
    state = step.place(model.state(TX, batch))
    return {name: float(value) for name, value in step(state, batch)[1].items()}


def linen(module=None, loss=softmax, **options):
    return trainkit.from_linen(nn.Dense(3) if module is None else module, loss, **options)


def expected(model, batch, labels, weight=None):
    """The mean loss and the accuracy, in NumPy."""
    logits = np.asarray(model.predict(model.state(TX, batch), batch), np.float64)
    each = np.log(np.exp(logits).sum(-1)) - logits[np.arange(8), labels]
    return {
        "loss": pytest.approx(np.average(each, weights=weight), rel=1e-5),
        "accuracy": pytest.approx(np.average(logits.argmax(-1) == labels, weights=weight)),
    }


def agrees(model, batch, labels, weight=None):
    wanted = expected(model, batch, labels, weight)
    found = metrics_of(model, batch)
    return {name: found[name] for name in wanted} == wanted


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", ["labels", "batch"])
@pytest.mark.parametrize(
    "inputs", [("x", "y"), {"a": "x", "b": "y"}, lambda batch: (batch["x"], batch["y"])]
)
def test_what_the_module_is_called_with_is_no_label(inputs, takes):
    loss = softmax if takes == "labels" else lambda out, batch: softmax(out, batch["label"])
    model = linen(Sum(), loss, inputs=inputs)
    batch = {"x": X, "y": Y, "label": Z}
    assert agrees(model, batch, Z)


def test_two_candidates_are_refused_with_the_call_that_decides():
    batch = {"x": X, "y": Y, "label": Z}
    with pytest.raises(ValueError, match=r"could be .*'y'.*say which: labels='"):
        metrics_of(linen(), batch)
    assert agrees(linen(labels="y"), batch, Y)
    assert agrees(linen(labels="label"), batch, Z)
    assert agrees(linen(labels=lambda batch: batch["y"]), batch, Y)
    by_batch = lambda out, batch: softmax(out, batch["label"])
    with pytest.raises(ValueError, match="labels='"):
        metrics_of(linen(loss=by_batch), batch)
    assert agrees(linen(loss=by_batch, labels="label"), batch, Z)
    assert "accuracy" not in metrics_of(linen(loss=by_batch, labels=()), batch)


def test_a_loss_of_the_batch_may_have_other_targets_beside_the_classes():
    by_batch = lambda out, batch: softmax(out, batch["label"]) + batch["target"]
    batch = {"x": X, "label": Z, "target": 0 * W}
    assert agrees(linen(loss=by_batch), batch, Z)


def test_nnx_and_evaluation_find_the_same():
    batch = {"x": X, "y": Y, "label": Z, "weight": W, "importance": W[::-1].copy()}
    model = trainkit.from_nnx(
        nnx.Linear(4, 3, rngs=nnx.Rngs(0)), softmax, labels="label", weights="importance"
    )
    assert agrees(model, batch, Z, W[::-1])
    found = trainkit.make_eval_step(model).over(model.state(TX, batch), [batch])
    wanted = expected(model, batch, Z, W[::-1])
    assert {name: found[name] for name in wanted} == wanted


def test_the_input_may_be_the_label_where_it_is_said():
    squared = lambda out, labels: jnp.square(out - labels).mean(-1)
    model = linen(nn.Dense(4), squared, labels="x")
    out = model.predict(model.state(TX, {"x": X}), {"x": X})
    assert metrics_of(model, {"x": X})["loss"] == pytest.approx(float(((out - X) ** 2).mean()))
    with pytest.raises(ValueError, match=r"cannot find the labels .* beside the inputs 'x'"):
        metrics_of(linen(nn.Dense(4), squared), {"x": X})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": "digit"}, r"labels must be keys of the batch, which has .*'x'.*labels= other"),
        ({"weights": 7}, r"weights must be keys of the batch"),
    ],
)
def test_keys_that_are_not_there(options, match):
    with pytest.raises(ValueError, match=match):
        metrics_of(linen(**options), {"x": X, "label": Y})


@pytest.mark.parametrize("options", [{"labels": 1.5}, {"weights": (1.5,)}, {"weights": {"a": 1}}])
def test_what_is_no_key(options):
    with pytest.raises(TypeError, match=f"{next(iter(options))} must be"):
        linen(**options)


# -- tuples ----------------------------------------------------------------------------------------


def test_a_tuple_of_two_inputs_and_labels_is_not_weighted_by_the_classes():
    by_batch = lambda out, batch: softmax(out, batch[2])
    batch = (X, 2 * X, Y)
    for loss in (softmax, by_batch):
        assert agrees(linen(Sum(), loss, inputs=lambda b: (b[0], b[1])), batch, Y)
        assert agrees(linen(Sum(), loss, inputs=(0, 1)), batch, Y)
    assert agrees(linen(inputs=-1), (np.arange(8), Y, X), Y)


@pytest.mark.parametrize("weight", [W, MASK])
def test_x_y_w(weight):
    assert agrees(linen(), (X, Y, weight), Y, weight)


@pytest.mark.parametrize("more", [(Z,), (W, W), (np.ones((8, 2), np.float32),)])
def test_a_third_element_that_may_be_anything_is_refused(more):
    with pytest.raises(ValueError, match=r"element 2 .*weights=2, or weights=\(\) for none"):
        metrics_of(linen(), (X, Y, *more))
    assert agrees(linen(weights=()), (X, Y, *more), Y)
    if more[0].ndim == 1:
        assert agrees(linen(weights=2), (X, Y, *more), Y, more[0])


def test_a_loss_that_is_given_the_tuple_says_what_weighs():
    by_batch = lambda out, batch: jnp.square(out[:, 0] - batch[1])
    batch = (X, W, W[::-1].copy())  # targets and more targets, or weights
    with pytest.raises(ValueError, match="weights=2"):
        metrics_of(linen(loss=by_batch), batch)
    out = np.asarray(linen().predict(linen().state(TX, batch), batch))[:, 0]
    for weights, weight in (((), None), (2, W[::-1])):
        found = metrics_of(linen(loss=by_batch, weights=weights), batch)["loss"]
        assert found == pytest.approx(np.average((out - W) ** 2, weights=weight), rel=1e-5)


def test_labels_of_a_tuple_where_element_1_is_the_input():
    with pytest.raises(ValueError, match=r"could be element 0 or element 2; say which: labels=2"):
        metrics_of(linen(inputs=1), (Z, X, Y))
    assert agrees(linen(inputs=1, labels=2), (Z, X, Y), Y)


class Batch(NamedTuple):
    weight: Any
    label: Any
    image: Any


def test_the_names_of_a_named_tuple():
    assert agrees(linen(), Batch(W, Y, X), Y, W)

    class Other(NamedTuple):
        pixels: Any
        digit: Any

    with pytest.raises(ValueError, match=r"a Other with 'pixels', 'digit'.*inputs="):
        metrics_of(linen(), Other(X, Y))
    assert agrees(linen(inputs="pixels", labels="digit"), Other(X, Y), Y)


# -- weights ---------------------------------------------------------------------------------------


def test_weight_and_mask_multiply():
    weight = np.arange(1, 9, dtype=np.float32)
    batch = {"x": X, "label": Y, "weight": weight, "mask": MASK}
    assert agrees(linen(), batch, Y, weight * MASK)
    assert agrees(linen(weights="weight"), batch, Y, weight)
    assert agrees(linen(weights=("mask",)), batch, Y, MASK)
    assert agrees(linen(weights=()), batch, Y)
    assert agrees(linen(weights=lambda batch: None), batch, Y)


def test_weights_of_examples_and_of_tokens_multiply():
    tokens = jnp.asarray(rng.normal(size=(8, 5, 3)), jnp.float32)
    labels = rng.integers(0, 3, (8, 5))
    mask = rng.integers(0, 2, (8, 5)).astype(bool)
    found = weighed(softmax, tokens, {"x": labels, "y": labels, "weight": W, "mask": mask})
    each = np.asarray(softmax(tokens, labels)) * W[:, None] * mask
    assert float(found.weight) == (W[:, None] * mask).sum()
    assert float(found.total) == pytest.approx(float(each.sum()), rel=1e-6)


@pytest.mark.parametrize("own", [{}, {"weight": W}, {"mask": MASK}, {"weight": W, "mask": MASK}])
def test_a_padded_batch_has_the_loss_of_the_batch(own):
    batch = {"x": X, "label": Y, **own}
    padded, weight = pad_batch(batch, 12)
    found = [metrics_of(linen(), each) for each in (batch, {"weight": weight} | padded)]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)


def test_a_mask_that_the_module_is_called_with_weighs_nothing():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            return nn.Dense(3)(jnp.where(mask[..., None], x, 0).sum(1))

    tokens = rng.normal(size=(8, 5, 4)).astype(np.float32)
    batch = {"x": tokens, "mask": rng.integers(0, 2, (8, 5)).astype(bool), "label": Y}
    assert agrees(linen(Attention(), inputs=("x", "mask")), batch, Y)
    assert agrees(linen(Attention(), inputs=("x", "mask")), {**batch, "weight": W}, Y, W)


def test_a_weight_of_another_shape_is_named():
    batch = {"x": X, "label": Y, "mask": np.ones((8, 3), bool)}
    with pytest.raises(ValueError, match=r"weight 'mask' has shape \(8, 3\).*weights=\(\)"):
        metrics_of(linen(), batch)


# -- what the loss makes of them -------------------------------------------------------------------


def test_counts_are_no_classes_to_a_loss_of_the_batch():
    def likelihood(out, batch):
        error = out[:, 0] - batch["y"].astype(jnp.float32)
        return 0.5 * jnp.square(error) * jnp.exp(-out[:, 1]) + 0.5 * out[:, 1]

    batch = {"x": X, "y": np.arange(8, dtype=np.int32) * 5}
    model = linen(nn.Dense(2), likelihood)
    assert np.isfinite(metrics_of(model, batch)["loss"])
    model.refuse_values(*variables(model, batch), batch)
    told = lambda out, labels: likelihood(out, {"y": labels})
    model = linen(nn.Dense(2), told)
    with pytest.raises(ValueError, match="no classes must be floating"):
        model.refuse_values(*variables(model, batch), batch)
    assert np.isfinite(metrics_of(model, {**batch, "y": batch["y"].astype(np.float32)})["loss"])


def variables(model, batch):
    state = model.state(TX, batch)
    return state.params, state.model_state


def test_minus_100_weighs_nothing_to_a_loss_of_the_batch():
    by_batch = lambda out, batch: softmax(out, jnp.maximum(batch["label"], 0))
    labels = np.where(MASK, Y, -100)
    model = linen(loss=by_batch)
    found = metrics_of(model, {"x": X, "label": labels})
    assert found["loss"] == expected(model, {"x": X}, Y, MASK)["loss"]


@pytest.mark.parametrize(
    ("features", "labels"), [(1, np.ones(8, np.float32)), (None, np.ones((8, 1), np.float32))]
)
def test_outputs_that_broadcast_against_the_labels_are_refused(features, labels):
    outputs = None if features else lambda outputs: outputs[:, 0]
    model = linen(nn.Dense(1), optax.huber_loss, outputs=outputs)
    batch = {"x": X, "y": labels}
    with pytest.raises(ValueError, match=r"loss has shape \(8, 8\), .*\(8, 1\).* outputs="):
        metrics_of(model, batch)
    outputs = (lambda outputs: outputs[..., 0]) if features else None
    assert metrics_of(linen(nn.Dense(1), optax.huber_loss, outputs=outputs), batch)["loss"] > 0


def test_a_metric_that_broadcasts_is_refused_and_axes_of_what_is_sown_are_known():
    def loss(out, batch, sown):
        return jnp.square(out[:, 0] - batch["y"]), {"error": abs(out - batch["y"])}

    outputs, batch = jnp.ones((8, 1)), {"x": X, "y": np.ones(8, np.float32)}
    with pytest.raises(ValueError, match=r"error has shape \(8, 8\)"):
        weighed(lambda *args: loss(*args, {}), outputs, batch)
    pairs = lambda out, labels: jnp.square(out[:, :, None] - labels[:, None, :])
    points = weighed(pairs, jnp.ones((8, 3)), {"x": X, "y": np.ones((8, 5), np.float32)})
    assert points.weight == 8 * 3 * 5


def test_outputs_of_nan_are_wrong():
    outputs = jnp.array([[jnp.nan] * 3, [0.0, jnp.nan, 5.0], [9.0, 0.0, 0.0]])
    found = weighed(softmax, outputs, {"label": np.array([0, 1, 0])})
    assert tuple(map(float, found.metrics["accuracy"])) == (1, 3)


# -- what a function of the batch reads ------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "read"),
    [
        (lambda b: b["x"], {"x"}),
        (lambda b: jax.tree.map(lambda leaf: leaf[::-1], b)["x"], {"x"}),
        (lambda b: jnp.where(b["mask"][:, None], b["x"], 0), {"x", "mask"}),
        (lambda b: trainkit.Call((b["x"],), {"mode": "fast", "n": b["y"].shape[0]}), {"x"}),
        (lambda b: b, {"x", "y", "mask"}),
    ],
)
def test_what_is_read(fn, read):
    assert read_by(fn, {"x": X, "y": Y, "mask": MASK}) == read


def test_errors_of_the_loss_stay_what_they_are():
    batch = {"x": X, "y": np.ones(8, np.float32)}
    for width in (1, 3):
        with pytest.raises(KeyError, match="nothing") as caught:
            metrics_of(linen(nn.Dense(width), lambda out, batch: batch["nothing"]), batch)
        assert any("from the loss_fn" in note for note in caught.value.__notes__)
        with pytest.raises(ZeroDivisionError):
            metrics_of(linen(nn.Dense(width), lambda out, labels: 1 / 0), batch)


def test_labels_are_named_where_the_loss_can_be_computed_with_others():
    with pytest.raises(TypeError, match="batch/y must be integers") as caught:
        metrics_of(linen(), {"x": X, "y": np.ones(8, np.float32)})
    assert caught.value.__context__ is not None


def test_a_data_set_that_batches_are_made_of_is_not_taken_for_a_batch():
    model, batch = linen(labels="label"), {"x": X, "label": Y}
    raw = {"pixels": X, "name": np.full(8, 99)}
    model.refuse_values(*variables(model, batch), batch, raw)
    with pytest.raises(ValueError, match="data/label must be a class from 0 to 2"):
        model.refuse_values(*variables(model, batch), batch, {"x": X, "label": Y + 1})


def test_a_label_that_a_function_gives_the_weight_0_may_be_anything():
    batch = {"x": X, "label": np.where(MASK, Y, -1)}
    model = linen(weights=lambda batch: batch["label"] >= 0)
    for data in (None, batch):
        model.refuse_values(*variables(model, batch), batch, data)
    assert agrees(model, batch, np.maximum(batch["label"], 0), MASK)
    with pytest.raises(ValueError, match="batch/label must be a class"):
        linen().refuse_values(*variables(model, batch), batch)
