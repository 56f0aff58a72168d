"""New layers with parameters that are whole numbers, which an identity needs as much as others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(5, 4))


def times(q, h):
    return h * q["count"].astype(h.dtype)


def more_than_once(q, h):
    """A count that is added to 1, and so would have to be −1 for a branch of 0."""
    return h + jnp.sin(h) * (1 + q["count"].astype(h.dtype))


def parameters(depth, kind):
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 4, size=(depth, 4)).astype(kind)
    return {"counted": [{"count": jnp.asarray(count)} for count in counts]}


@pytest.mark.parametrize("kind", ["int32", "uint8", "bool"])
@pytest.mark.parametrize("layer", [times, more_than_once])
def test_exact_or_refused(layer, kind):
    def fn(p, x):
        for q in p["counted"]:
            x = layer(q, x)
        return x

    small, big = parameters(2, kind), parameters(4, kind)
    if layer is more_than_once and kind != "int32":
        with pytest.raises(growth.GrowthError, match="cannot be an identity"):
            growth.plan(fn, fn, small, big, X)
        return
    plan = growth.plan(fn, fn, small, big, X)
    grown = plan.grow(small)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=1e-12, atol=1e-12)
