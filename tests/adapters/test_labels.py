"""Labels and weights: what is left out, what shows as NaN, and what is named on the host."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from tests.adapters.weighed import weighed
from trainkit.adapters.labels import marks_of, refuse_values
from trainkit.adapters.targets import targets_of

softmax = optax.softmax_cross_entropy_with_integer_labels
OUTPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
TOKENS = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 200)), jnp.float32)


def mean(batch, loss=softmax, outputs=OUTPUTS):
    found = weighed(loss, outputs, batch)
    return float(found.total) / float(found.weight)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_minus_100_weighs_nothing_in_the_loss_and_the_metrics(dtype):
    loss = lambda outputs, labels: (softmax(outputs, labels), {"size": outputs.sum(-1)})
    batch = {"label": jnp.asarray([-100, 1, 2, -100], dtype)}
    kept = weighed(loss, OUTPUTS[1:3], {"label": batch["label"][1:3]})
    found = weighed(loss, OUTPUTS, batch)
    assert (float(found.total), float(found.weight)) == (float(kept.total), 2.0)
    for name in ("size", "accuracy"):
        assert [float(x) for x in found.metrics[name]] == [float(x) for x in kept.metrics[name]]


def test_minus_100_has_no_gradient_even_where_the_loss_of_no_class_would_be_infinite():
    def loss(outputs, labels):  # of a one-hot row of zeros the logarithm of 0
        return -jnp.log((jax.nn.softmax(outputs) * jax.nn.one_hot(labels, 3)).sum(-1))

    labels = jnp.array([-100, 1, 2, 0])
    total = lambda outputs: weighed(loss, outputs, {"label": labels}).total
    grads = jax.grad(total)(OUTPUTS)
    assert np.isfinite(grads).all()
    assert (grads[0] == 0).all()


def test_minus_100_of_a_token_does_not_wrap_around_in_a_large_vocabulary():
    labels = jnp.array([[5, -100, 7], [-100, -100, 199]])
    losses = softmax(TOKENS, jnp.maximum(labels, 0))
    found = weighed(softmax, TOKENS, {"label": labels})
    assert float(found.weight) == 3
    assert float(found.total) == pytest.approx(float(losses[labels >= 0].sum()), rel=1e-6)


@pytest.mark.parametrize("wrong", [-1, -99, -101, 3, 2**31 - 1])
def test_any_other_label_that_is_no_class_makes_the_loss_nan(wrong):
    assert np.isnan(mean({"label": jnp.array([0, wrong, 2, 1])}))


def test_a_label_of_an_example_that_weighs_0_may_be_anything():
    batch = {"label": jnp.array([0, -1, 2, 9]), "weight": jnp.array([1.0, 0, 2, 0])}
    good = {**batch, "label": jnp.array([0, 1, 2, 1])}
    assert mean(batch) == mean(good)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_none_makes_the_loss_nan(weight):
    batch = {"label": jnp.array([0, 1, 2, 1]), "weight": jnp.array([1.0, weight, 1, 1])}
    assert np.isnan(mean(batch))


def test_bytes_cannot_be_left_out_and_keep_a_weight_that_is_known_before_the_program_runs():
    assert weighed(softmax, OUTPUTS, {"label": np.array([0, 1, 2, 1], np.uint8)}).weight == 4


def test_a_loss_that_adds_up_over_positions_sees_the_labels_as_they_are():
    def loss(outputs, labels):
        kept = labels != -100
        return jnp.where(kept, softmax(outputs, jnp.where(kept, labels, 0)), 0).sum(-1)

    labels = jnp.array([[5, -100, 7], [-100, -100, 199]])
    found = weighed(loss, TOKENS, {"label": labels})
    assert found.total == pytest.approx(float(loss(TOKENS, labels).sum()))
    assert np.isnan(mean({"label": labels.at[0, 0].set(200)}, loss, TOKENS))


def test_integer_targets_of_a_loss_that_is_not_of_classes_are_left_alone():
    counts = jnp.array([0, 7, 2, 40])

    def poisson(rates, labels):
        return rates[:, 0] - labels.astype(jnp.float32) * jnp.log(jnp.abs(rates[:, 0]))

    assert np.isfinite(mean({"label": counts}, poisson, OUTPUTS[:, :1]))


def test_marks():
    found = marks_of(jnp.array([[-100, 0], [2, 3]]), 3)
    np.testing.assert_array_equal(found, [[0, 1], [1, np.nan]])


def data(**changes):
    return {"x": np.ones((6, 2), np.float32), "label": np.array([0, 1, 2, 0, 1, 2]), **changes}


def refuse_data(data):
    outputs = jax.ShapeDtypeStruct((6, 3), jnp.float32)
    has_labels = not isinstance(data, dict) or data["label"] is not None
    targets = targets_of(data, outputs, {"x", 0}, takes_labels=has_labels)
    refuse_values(targets, outputs, "data")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label": np.array([0, 1, 2, 0, 1, 3])}, r"data/label must be a class from 0 to 2.*not 3"),
        ({"label": np.array([0, -1, 2, 0, 1, 2])}, r"data/label .*not -1 \(example 1\)"),
        ({"label": np.array([0, 1, 2, 0, 1, 2**40])}, "data/label .*not 1099511627776"),
        ({"weight": np.array([1, 1, 1, 1, 1, -2.0])}, r"data/weight .*at least 0, not -2.0 \(at"),
        ({"mask": np.array([1, np.nan, 1, 1, 1, 1])}, "data/mask must be finite"),
        ({"mask": np.zeros(6, bool)}, "data/mask must be above 0 somewhere"),
        ({"weight": np.array(["1"] * 6)}, "data/weight must be an array of real numbers"),
    ],
)
def test_labels_and_weights_of_a_data_set_are_named(changes, match):
    with pytest.raises((ValueError, TypeError), match=match):
        refuse_data(data(**changes))


@pytest.mark.parametrize(
    "good",
    [
        data(),
        data(label=np.array([-100, 1, 2, 0, 1, 2])),
        data(label=np.array([9, 1, 2, 0, 1, 2]), weight=np.array([0, 1, 1, 1, 1, 0.5])),
        data(label=np.array([0.5] * 6)),
        data(label=np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]]),
        data(mask=np.array([True, False] * 3)),
        data(label=None),
        (np.ones((6, 2)), np.array([0, 1, 2, 0, 1, 2])),
    ],
)
def test_what_may_be_is_not_refused(good):
    refuse_data(good)


def test_a_step_leaves_out_what_its_labels_say_on_every_placement():
    model = trainkit.from_linen(nn.Dense(3), softmax)
    tx = optax.sgd(0.1)
    x = np.random.default_rng(2).normal(size=(16, 2)).astype(np.float32)
    labels = np.array([0, -100, 2, 1] * 4, np.int32)
    kept = labels >= 0
    state = model.state(tx, {"x": x, "label": labels})
    want = {}
    for placement, devices in (("single", 1), ("jit", 4), ("shard_map", 2)):
        step = trainkit.make_train_step(model, tx, placement=placement, devices=devices)
        new, metrics = step(step.place(state), {"x": x, "label": labels})
        want[placement] = float(metrics["loss"]), jax.tree.map(np.asarray, new.params)
    counted = {"x": x, "label": np.maximum(labels, 0), "weight": kept.astype(np.float32)}
    step = trainkit.make_train_step(model, tx)
    new, metrics = step(step.place(state), counted)
    for loss, params in want.values():
        assert loss == pytest.approx(float(metrics["loss"]), rel=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, new.params)
