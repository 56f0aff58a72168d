"""Refusals: one form of message, and nothing refused that is not wrong."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit._core import validation


@pytest.mark.parametrize(
    ("refuse", "error", "message"),
    [
        (
            lambda: validation.number("decay", 1.0, "ema", least=0, below=1),
            ValueError,
            "ema: decay must be in [0, 1), not 1.0.",
        ),
        (
            lambda: validation.number("rate", math.nan, least=0, finite=False),
            ValueError,
            "rate must be at least 0, not nan.",
        ),
        (
            lambda: validation.number("rate", math.inf, above=0, hint="try 1e-3"),
            ValueError,
            "rate must be finite and greater than 0, not inf; try 1e-3.",
        ),
        (lambda: validation.number("rate", True), TypeError, "rate must be a number, not True."),
        (
            lambda: validation.integer("steps", True),
            ValueError,
            "steps must be an integer of at least 1, not True.",
        ),
        (
            lambda: validation.choice("mode", "mix", ("min", "max"), hint="either"),
            ValueError,
            "mode must be 'min' or 'max', not 'mix'; either.",
        ),
        (
            lambda: validation.choice("placement", "jt", ("jit", "pmap"), other="a mesh"),
            ValueError,
            "placement must be 'jit', 'pmap' or a mesh, not 'jt'; did you mean 'jit'?",
        ),
        (
            lambda: validation.keywords(["stepps"], ["steps"], "fit"),
            TypeError,
            "fit has no option 'stepps'; did you mean 'steps'? Known: steps.",
        ),
    ],
)
def test_a_refusal_says_what_was_given_what_is_expected_and_what_mends_it(refuse, error, message):
    with pytest.raises(error) as raised:
        refuse()
    assert str(raised.value) == message


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), jnp.float32(0.5), np.ones(2)])
def test_numbers_of_any_library_pass(value):
    validation.number("rate", value, least=0)


def test_what_has_no_value_yet_passes():
    jax.jit(lambda x: (validation.number("x", x, least=0), validation.integer("x", x), x)[2])(-1)


def test_a_bound_may_be_infinite_where_that_is_said():
    validation.number("max_norm", math.inf, above=0, finite=False)


def test_every_leaf_that_differs_is_told_with_what_is_there():
    found = {"a": jnp.ones(2), "b": np.zeros((), np.int32)}
    expected = {"a": jnp.ones(2), "b": jnp.zeros(()), "c": 1.0}
    assert validation.differences(found, expected, dtypes=True) == {
        "b": ("int32[]", "float32[]"),
        "c": ("nothing", "float32[]"),
    }
    assert list(validation.differences(found, expected, dtypes=False)) == ["c"]


def test_one_leaf_of_another_size_is_named_beside_one_of_the_usual():
    batch = {"a": np.ones(4), "b": np.ones(3), "c": np.ones((4, 2))}
    with pytest.raises(ValueError, match="batch/b has 3 examples on its axis 0, but batch/a has 4"):
        validation.leading_size(batch, "batch")
    assert validation.leading_size(np.ones((2, 5)), "batch", axis=1) == 5
