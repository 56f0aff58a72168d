"""How the adapters weigh a loss and find things in a batch."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.adapters.weighed import weighed
from trainkit.adapters.batches import inputs_of

LOGITS = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
LABELS = np.array([0, 1, 1], np.int32)
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


def test_losses_and_accuracy_are_weighed_by_the_example():
    weight = np.array([1.0, 0.5, 2.0], np.float32)
    loss = weighed(CROSS_ENTROPY, LOGITS, {"x": LABELS, "label": LABELS, "weight": weight})
    logits = np.asarray(LOGITS)
    each = np.log(np.exp(logits).sum(-1)) - logits[np.arange(3), LABELS]
    assert float(loss.total) == pytest.approx((each * weight).sum(), rel=1e-6)
    assert float(loss.weight) == 3.5
    assert tuple(map(float, loss.metrics["accuracy"])) == (1.5, 3.5)


def test_without_weights_each_example_or_token_counts_once():
    loss = weighed(CROSS_ENTROPY, LOGITS, (LABELS, LABELS))
    assert float(loss.weight) == 3
    tokens = jnp.stack([LOGITS] * 4)
    labels = np.stack([LABELS] * 4)
    loss = weighed(CROSS_ENTROPY, tokens, {"tokens": labels, "targets": labels})
    assert float(loss.weight) == 12
    assert float(loss.metrics["accuracy"][1]) == 12


def test_a_mask_of_examples_or_of_tokens():
    tokens, labels = jnp.stack([LOGITS] * 2), np.stack([LABELS] * 2)
    batch = {"tokens": labels, "targets": labels}
    whole = weighed(CROSS_ENTROPY, tokens, {**batch, "mask": np.array([True, False])})
    by_token = np.array([[True] * 3, [False] * 3])
    each = weighed(CROSS_ENTROPY, tokens, {**batch, "mask": by_token})
    assert float(whole.weight) == float(each.weight) == 3
    assert (
        float(whole.total)
        == float(each.total)
        == pytest.approx(float(weighed(CROSS_ENTROPY, LOGITS, (LABELS, LABELS)).total), rel=1e-6)
    )


def test_padding_counts_for_nothing_even_where_its_loss_is_nan():
    def loss(outputs, batch):
        return outputs[:, 0], {"double": 2 * outputs[:, 0]}

    outputs = jnp.array([[1.0], [jnp.nan]])
    found = weighed(loss, outputs, {"x": outputs, "weight": np.array([1.0, 0.0], np.float32)})
    assert (float(found.total), float(found.weight)) == (1, 1)
    assert tuple(map(float, found.metrics["double"])) == (2, 1)


def test_the_second_parameter_decides_what_a_loss_is_given():
    by_batch = weighed(lambda out, batch: batch["x"] * out[:, 0], LOGITS, {"x": jnp.ones(3)})
    assert float(by_batch.total) == 5
    by_labels = weighed(lambda out, targets: targets * out[:, 0], LOGITS, (LABELS, jnp.ones(3)))
    assert float(by_labels.total) == 5


def test_a_mean_is_refused():
    with pytest.raises(ValueError, match=r"loss has shape \(\).*remove the mean"):
        weighed(lambda out, batch: out.mean(), LOGITS, (LABELS, LABELS))
    with pytest.raises(ValueError, match=r"hits has shape \(2,\)"):
        weighed(lambda out, batch: (out[:, 0], {"hits": out[0]}), LOGITS, (LABELS, LABELS))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"weight 'mask' has shape \(3, 2\), but loss has .*\(3,\)"
    ):
        weighed(CROSS_ENTROPY, LOGITS, {"label": LABELS, "mask": np.ones((3, 2))})


def test_inputs_are_found_by_name_or_said():
    batch = {"label": 1, "image": 2}
    assert inputs_of(None)(batch) == 2
    assert inputs_of("label")(batch) == 1
    assert inputs_of(lambda b: b["label"] + 1)(batch) == 2
    assert inputs_of(None)((5, 6)) == 5
    with pytest.raises(ValueError, match=r"dict with 'pixels'.*inputs="):
        inputs_of(None)({"pixels": 1})
    with pytest.raises(ValueError, match="cannot find the labels"):
        weighed(CROSS_ENTROPY, LOGITS, {"x": LABELS})
