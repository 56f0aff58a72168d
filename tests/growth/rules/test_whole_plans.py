"""Small models around what a rule alone would get wrong: the plan is exact, or it is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(5, 3))


def draw(sizes):
    """Parameters of these shapes; those whose name ends with "int8" are whole numbers."""
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.integers(-100, 100, shape), jnp.int8)
        if name.endswith("int8")
        else jnp.asarray(rng.normal(size=shape))
        for name, shape in sizes.items()
    }


def quantised(p, x):
    """A matrix of whole numbers with a scale for each result."""
    return jax.nn.gelu(x @ p["in"]) @ p["w int8"].astype(jnp.float64) * p["scale"]


def gain_returned(p, x):
    """1 + w scales, and a loop gives w back."""
    h = x @ p["in"]
    h = h * lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-5)
    gains = lax.scan(lambda c, _: (c, p["gain"]), 0.0, None, length=2)[1]
    return (h * (1 + p["gain"])) @ p["in"].T, gains @ p["more"]


def bent_in_place(p, x):
    """What would take a factor √½ goes through a cosine first."""
    h = (x @ p["in"]).at[0].apply(jnp.cos)
    return h @ h.T


def multiplied_in_place(p, x):
    """Every hidden unit multiplies one place."""
    h = x @ p["in"]
    number = jnp.ones((5, 1)).at[:, jnp.zeros(h.shape[1], jnp.int32)].multiply(h)
    return number @ p["out"]


def padded(p, x):
    """Keys behind a first one of ones, which takes no share of any axis."""
    k = jnp.pad(x @ p["k"], ((1, 0), (0, 0)), constant_values=1.0)
    return (x @ p["q"]) @ k.T


def sized(n):
    return {
        quantised: {"in": (3, n), "w int8": (n, 2), "scale": (2,)},
        gain_returned: {"in": (3, n), "gain": (n,), "more": (n, 2)},
        bent_in_place: {"in": (3, n)},
        multiplied_in_place: {"in": (3, n), "out": (1, 2)},
        padded: {"q": (3, n), "k": (3, n)},
    }


@pytest.mark.parametrize("fn", sized(2), ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("n", [6, 8])
def test_exact_or_refused(fn, n):
    small, big = draw(sized(4)[fn]), draw(sized(n)[fn])
    try:
        plan = growth.plan(fn, fn, small, big, X)
    except growth.GrowthError:
        assert fn is not quantised or n == 6  # 4 → 8 needs no shares
        return
    wanted = fn(small, X)
    for how in ("even", "uneven", "zero_out"):
        grown = plan.grow(small, key=jax.random.key(0), how=how)
        found = fn(grown, X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), found, wanted)


def test_a_scatter_that_sums_hidden_units_is_planned_as_the_matrix_that_does():
    def scattered(p, x):
        h = jnp.tanh(x @ p["in"]) @ p["w"]
        return jnp.zeros((5, 2)).at[:, np.arange(h.shape[1]) % 2].add(h)

    def multiplied(p, x):
        h = jnp.tanh(x @ p["in"]) @ p["w"]
        return h @ np.eye(2)[np.arange(h.shape[1]) % 2]

    small, big = (draw({"in": (3, n), "w": (n, n)}) for n in (4, 8))
    plans = [growth.plan(fn, fn, small, big, X) for fn in (scattered, multiplied)]
    assert plans[0].leaves == plans[1].leaves


def test_sharded_bodies_that_differ():
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))

    def by(factor):
        times = jax.shard_map(lambda v: v * factor, mesh=mesh, in_specs=P(), out_specs=P())
        return lambda p, x: times(jax.nn.gelu(x @ p["in"]) @ p["out"])

    sizes = lambda n: draw({"in": (3, n), "out": (n, 2)})
    growth.plan(by(2.0), by(2.0), sizes(4), sizes(8), X)
    with pytest.raises(growth.GrowthError, match="bodies of `shard_map` differ"):
        growth.plan(by(2.0), by(3.0), sizes(4), sizes(8), X)


def test_nothing_grows_in_batch_groups():
    def fn(p, x):
        y = lax.conv_general_dilated(
            x, p["k"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), batch_group_count=2
        )
        return jax.nn.gelu(y @ p["in"]) @ p["out"]

    small, big = (draw({"k": (3, 2, 4), "in": (4, n), "out": (n, 2)}) for n in (4, 8))
    x = np.random.default_rng(0).normal(size=(4, 6, 2))
    grown = growth.plan(fn, fn, small, big, x).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, x), fn(small, x), atol=1e-12)
