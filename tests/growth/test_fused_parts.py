"""One matrix makes several parts, of which some grow by copies and others by padding units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(5, 3))


def mixer(p, x):
    """[value | B | C] of one matrix; value · (B · C) enters a norm with an epsilon (Mamba-2)."""
    n = len(p["out"])
    k = (p["in"].shape[1] - n) // 2
    value, b, c = jnp.split(jax.nn.silu(x @ p["in"] + p["bias"]), [n, n + k], -1)
    y = value * jnp.sum(b * c, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * p["scale"]
    return y @ p["out"]


def draw(n, k):
    rng = np.random.default_rng([n, k])
    shapes = {"in": (3, n + 2 * k), "bias": (n + 2 * k,), "scale": (n,), "out": (n, 2)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("sizes", [(8, 3), (4, 6), (8, 6), (8, 5), (12, 9)], ids=str)
def test_copies_and_padding_at_once(sizes):
    """A norm reads the value, which allows copies alone; copies of B and C would count twice."""
    small = draw(4, 3)
    grown = growth.plan(mixer, mixer, small, draw(*sizes), X).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(mixer(grown, X), mixer(small, X), rtol=1e-12)


def test_a_value_at_a_size_that_is_no_multiple_is_refused():
    with pytest.raises(growth.GrowthError, match="6 is not a multiple of 4"):
        growth.plan(mixer, mixer, draw(4, 3), draw(6, 6), X)
