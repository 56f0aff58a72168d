"""Scales of segments along an axis that does not grow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(5, 3))


def draw(sizes):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in sizes.items()}


def sums_beside_inputs(p, x):
    """A sum over units, which grows with their number, next to inputs, which do not."""
    total = jnp.sum(jax.nn.gelu(x @ p["in"]), -1, keepdims=True)
    return jnp.concatenate([total, x], -1) @ p["out"]


def parts_of_one(p, x):
    """One product makes what is summed over units and what is not."""
    both = jax.nn.gelu(x @ p["in"]) @ p["merged"]
    scores = both[:, :2] * jnp.sum(jax.nn.gelu(x @ p["in"]), -1, keepdims=True)
    return jnp.tanh(scores), jnp.tanh(both[:, 2:])


def behind_a_bias(p, x):
    total = jnp.sum(jax.nn.gelu(x @ p["in"]), -1, keepdims=True)
    return jnp.tanh((jnp.concatenate([x, total], -1) + p["bias"]) * p["gain"])


MODELS = {
    sums_beside_inputs: (lambda n: {"in": (3, n), "out": (4, 2)}, "out", 0, (0.5, 1.0)),
    parts_of_one: (lambda n: {"in": (3, n), "merged": (n, 5)}, "merged", 1, (0.25, 0.5)),
    behind_a_bias: (lambda n: {"in": (3, n), "bias": (4,), "gain": (4,)}, "gain", 0, (1.0, 0.5)),
}


@pytest.mark.parametrize("fn", MODELS, ids=lambda fn: fn.__name__)
def test_a_fixed_axis_has_a_scale_for_each_segment(fn):
    sizes, name, axis, scales = MODELS[fn]
    small, big = draw(sizes(4)), draw(sizes(8))
    plan = growth.plan(fn, fn, small, big, X)
    grown = plan.grow(small, how="even")
    found, wanted = jax.tree.leaves(fn(grown, X)), jax.tree.leaves(fn(small, X))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    old = np.moveaxis(np.asarray(small[name]), axis, 0)
    ratio = np.moveaxis(np.asarray(grown[name]), axis, 0)
    ratio = ratio[:, :: ratio.shape[1] // old.shape[1]] / old if old.ndim > 1 else ratio / old
    assert {round(float(r), 12) for r in ratio.reshape(-1)} == set(scales)
    first = ratio.reshape(len(ratio), -1)[0, 0]
    assert round(float(first), 12) == scales[0]


def test_a_fixed_axis_with_two_scales_is_not_normalised():
    """What looks at both segments at once sees them change by different factors."""

    def fn(p, x):
        total = jnp.sum(jnp.cosh(x @ p["in"]), -1, keepdims=True)
        return jax.nn.softmax(jnp.concatenate([total, x], -1))

    small, big = draw({"in": (3, 4)}), draw({"in": (3, 8)})
    with pytest.raises(growth.GrowthError, match="change by factors that differ by 2"):
        growth.plan(fn, fn, small, big, X)
