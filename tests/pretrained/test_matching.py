"""Which tensors the leaves of a model are: by name, shape and transposition, or an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit.pretrained.layouts import Layout, layouts
from trainkit.pretrained.matching import Wishes, match


def s(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def found(leaves, tensors, **wishes):
    return str(match(leaves, tensors, Wishes(**wishes))).splitlines()


def test_words_that_say_the_same():
    leaves = {
        "wte/embedding": s(9, 4),
        **{f"blocks_{i}/attn/{n}/kernel": s(4, 6) for n in ("query", "key") for i in range(2)},
        **{f"blocks_{i}/ln/scale": s(4) for i in range(2)},
        **{f"blocks_{i}/ln/bias": s(4) for i in range(2)},
    }
    tensors = {
        "embed_tokens.weight": s(9, 4),
        **{f"layers.{i}.self_attn.{n}_proj.weight": s(6, 4) for n in "qk" for i in range(2)},
        **{f"layers.{i}.norm.weight": s(4) for i in range(2)},
        **{f"layers.{i}.norm.bias": s(4) for i in range(2)},
    }
    assert found(leaves, tensors) == [
        "wte/embedding = embed_tokens.weight",
        "blocks_*/attn/query/kernel = layers.*.self_attn.q_proj.weight (transposed)",
        "blocks_*/attn/key/kernel = layers.*.self_attn.k_proj.weight (transposed)",
        "blocks_*/ln/scale = layers.*.norm.weight",
        "blocks_*/ln/bias = layers.*.norm.bias",
    ]


def test_a_word_counts_as_often_as_it_is_there():
    """`c_attn` and `c_proj` in a module `attn`, of one shape and its transpose."""
    leaves = {"attn/c_attn/w": s(4, 6), "attn/c_proj/w": s(6, 4)}
    tensors = {"attn.c_attn.weight": s(4, 6), "attn.c_proj.weight": s(6, 4)}
    assert found(leaves, tensors) == [
        "attn/c_attn/w = attn.c_attn.weight",
        "attn/c_proj/w = attn.c_proj.weight",
    ]


def test_square_matrices_follow_the_others():
    leaves = {"q/kernel": s(4, 4), "up/kernel": s(4, 6)}
    assert found(leaves, {"q.weight": s(4, 4), "up.weight": s(6, 4)}) == [
        "q/kernel = q.weight (transposed)",
        "up/kernel = up.weight (transposed)",
    ]
    assert found(leaves, {"q.weight": s(4, 4), "up.weight": s(4, 6)})[0] == "q/kernel = q.weight"


def test_a_square_matrix_alone_is_not_guessed():
    leaves, tensors = {"embed": s(9, 4), "q": s(4, 4)}, {"embed": s(9, 4), "q": s(4, 4)}
    with pytest.raises(ValueError, match=r"q \(4×4\) may be q or its transpose: say transpose='q'"):
        found(leaves, tensors)
    assert found(leaves, tensors, transpose=["q"])[1] == "q = q (transposed)"
    assert found(leaves, tensors, as_is=["q"])[1] == "q = q"


def test_names_that_say_nothing_are_not_guessed():
    leaves = {"a": s(4), "b": s(4), "up": s(4, 6)}
    tensors = {"norm.weight": s(4), "post_norm.weight": s(4), "up.weight": s(6, 4)}
    with pytest.raises(ValueError, match=r"several tensors may be a \(4\): norm.weight, post_n"):
        found(leaves, tensors)
    assert found(leaves, tensors, names={"a": "post_norm.weight"})[:2] == [
        "a = post_norm.weight",
        "b = norm.weight",  # the only one that is left
    ]


def test_a_shorter_name_is_no_evidence():
    leaves = {"first": s(4), "second_norm": s(4), "up": s(4, 6)}
    tensors = {"input_norm.weight": s(4), "post_attention_norm.weight": s(4), "up.weight": s(6, 4)}
    with pytest.raises(ValueError, match="several tensors may be first"):
        found(leaves, tensors)


def test_heads_are_axes_of_their_own_here_and_merged_there():
    leaves = {"q/kernel": s(6, 2, 4), "out/kernel": s(2, 4, 6), "q/bias": s(2, 4)}
    tensors = {"q.weight": s(8, 6), "out.weight": s(6, 8), "q.bias": s(8)}
    names = match(leaves, tensors, Wishes())
    value = np.arange(48.0).reshape(6, 2, 4)
    tensor = names.tensor("q/kernel", value, ())
    np.testing.assert_array_equal(tensor, value.reshape(6, 8).T)
    np.testing.assert_array_equal(
        names.leaf("q/kernel", (6, 2, 4), {"q.weight": tensor}.get), value
    )
    assert names.specs("out/kernel", (4, 4, 6))["out.weight"].shape == (6, 16)


@pytest.mark.parametrize("shape", [(3, 5), (7, 3, 5), (2, 7, 3, 5)])
def test_kernels_of_convolutions(shape):
    """(…, in, out) here, (out, in, …) there."""
    tensor = np.arange(np.prod(shape)).reshape(shape[-1], shape[-2], *shape[:-2])
    (layout,) = layouts(tensor.shape, shape)
    leaf = layout.to_leaf(tensor, shape)
    assert layout == Layout(True)
    assert leaf[(0,) * (len(shape) - 2)][1, 2] == tensor[2, 1].ravel()[0]
    np.testing.assert_array_equal(layout.to_tensor(leaf), tensor)


def test_stacked_layers_and_experts():
    leaves = {"layers/up": s(2, 3, 4, 6)}
    tensors = {f"h.{i}.experts.{e}.up.weight": s(6, 4) for i in range(2) for e in range(3)}
    assert found(leaves, tensors) == [
        "layers/up = h.*.experts.*.up.weight (stacked along 2 axes, transposed)"
    ]
    leaves = {f"layers/{i}/up": s(3, 4, 6) for i in range(2)}
    names = match(leaves, tensors, Wishes())
    assert names.tensors("layers/1/up", (2, 4, 6)) == {
        "h.1.experts.0.up.weight": (0,),
        "h.1.experts.1.up.weight": (1,),
    }


@pytest.mark.parametrize(
    ("leaves", "tensors", "wishes", "says"),
    [
        ({"a": s(4)}, {"a": s(4), "b": s(3)}, {}, r"b \(3\) .* is no leaf .* ignore='b'"),
        ({"a": s(4)}, {"a": s(5)}, {}, r"shape and number of a \(4\) .* nearest name is a \(5\)"),
        ({"a": s(4)}, {}, {}, "no tensor of the checkpoint is left for a"),
        ({"a": s(4)}, {"a": s(4, dtype=jnp.int8)}, {}, "a is int8 in .* not quantised"),
        ({"a": s(4)}, {"a": s(4)}, {"ignore": ["b"]}, "ignore: 'b' is no tensor"),
        ({"a": s(4)}, {"a": s(4), "b": s(3)}, {"names": {"a": "b"}}, r"b \(3\) does not have the"),
        ({"h.0.a": s(4), "h.1.a": s(4)}, {"h.0.a": s(4)}, {}, r"h.\*.a \(2 × 4\) in the small"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(leaves, tensors, wishes, says):
    with pytest.raises(ValueError, match=says) as caught:
        found(leaves, tensors, **wishes)
    assert "\n" not in str(caught.value)
    assert found({"a": s(4)}, {"a": s(4), "b": s(3)}, ignore=["b"]) == ["a = a"]
