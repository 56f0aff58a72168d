"""What leaves of new layers hold that copy no old leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit.growth.maps.initial import initial

KEY = jax.random.key(3)


@pytest.mark.parametrize("shape", [(400, 30), (3, 3, 40, 30), (20000,), (2, 10000)])
def test_random_values_have_the_variance_of_their_inputs(shape):
    """1 / fan-in: all axes but the last are inputs. 10,000 draws or more: five standard errors."""
    x = np.asarray(initial("random", shape, jnp.float32, KEY), np.float64)
    inputs = np.prod(shape[:-1])
    assert abs(np.mean(x)) < 5 / np.sqrt(inputs * x.size)
    assert abs(np.mean(x**2) * inputs - 1) < 5 * np.sqrt(2 / x.size)
    other = initial("random", shape, jnp.float32, jax.random.key(4))
    assert (np.asarray(other) != x).any()
    np.testing.assert_array_equal(
        initial("random", shape, jnp.float32, None),
        initial("random", shape, jnp.float32, jax.random.key(0)),
    )


def test_half_precision_is_rounded_once():
    wide = initial("random", (64, 8), jnp.float32, KEY)
    half = initial("random", (64, 8), jnp.bfloat16, KEY)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_constants(dtype):
    for becomes, wanted in {
        "zero": np.zeros((3, 3)), "one": np.ones((3, 3)), "eye": np.eye(3), "eyes": np.eye(3)
    }.items():  # fmt: skip
        found = initial(becomes, (3, 3), dtype, KEY)
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.asarray(found, np.float32), wanted)


def test_stacked_identities_and_that_of_a_convolution():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5, 2)), jnp.float32)
    each = initial("eyes", (4, 2, 2), jnp.float32, KEY)
    assert each.shape == (4, 2, 2)
    np.testing.assert_array_equal(x @ each[2], x)
    kernel = initial("eye", (3, 3, 2, 2), jnp.float32, KEY)
    same = jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]  # fmt: skip
    np.testing.assert_array_equal(same, x)


def test_whole_numbers():
    """They hold what an identity needs, and are 0 where any value would do."""
    found = {kind: initial(kind, (2, 2), jnp.int32, KEY).tolist() for kind in WHOLE}
    assert found == WHOLE


WHOLE = {
    "zero": [[0, 0], [0, 0]],
    "one": [[0, 0], [0, 0]],
    "random": [[0, 0], [0, 0]],
    "unit": [[1, 1], [1, 1]],
    "minus_one": [[-1, -1], [-1, -1]],
    "eye": [[1, 0], [0, 1]],
    "eyes": [[1, 0], [0, 1]],
    "eye_first": [[1, 0], [0, 1]],
}
