"""Noise of two matrices that are split along different axes, and multiplied with each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")


def two_matrices(p, x):
    """`a` is split over its rows, which units read, so that `b` is over the columns of both."""
    hidden = jnp.tanh(jnp.tanh(x @ p["in"]) @ p["a"])
    return hidden @ p["out"] + jnp.einsum("ij,ij", p["a"], p["b"])


def test_the_product_of_two_noises_cancels():
    rng = np.random.default_rng(0)
    draw = lambda n: {
        name: jnp.asarray(rng.normal(size=shape))
        for name, shape in {
            "in": (3, n),
            "a": (n, n + 1),
            "b": (n, n + 1),
            "out": (n + 1, 2),
        }.items()
    }
    small, x = draw(3), rng.normal(size=(5, 3))
    plan = growth.plan(two_matrices, two_matrices, small, draw(7), x)  # 3 → 7 and 4 → 8
    grown = plan.grow(small, key=jax.random.key(0), how="noise")
    even = plan.grow(small, how="even")
    for name in ("a", "b"):
        assert not np.allclose(grown[name], even[name])
    # Sums of 56 products of numbers of size 1, in float64.
    np.testing.assert_allclose(
        two_matrices(grown, x), two_matrices(small, x), rtol=1e-12, atol=1e-12
    )
