"""New layers that read a concatenation: rows of an identity matrix select the part that goes on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(2, 5, 4))


def dense(w, x):
    return x @ w


def convolution(w, x):
    """With a kernel of one place, as the shortcuts of residual blocks."""
    dims = jax.lax.conv_dimension_numbers(x.shape, w.shape, ("NHC", "HIO", "NHC"))
    return jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=dims)


def u_net(p, x, linear, skip_first=False):
    """Residual blocks down and up; on the way up a block reads what a block down returned."""

    def block(q, x):
        mean, spread = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        h = (x - mean) / jnp.sqrt(spread + 1e-6) * q["scale"]
        h = linear(q["second"], jax.nn.gelu(linear(q["first"], jax.nn.gelu(h)) + q["b"]))
        return h + (linear(q["shortcut"], x) + q["c"] if "shortcut" in q else x)

    seen = [linear(p["in"], x)]
    for q in p["down"]:
        seen.append(block(q, seen[-1]))
    h = seen[-1]
    for q in p["up"]:
        parts = [h, seen.pop()]
        h = block(q, jnp.concatenate(parts[::-1] if skip_first else parts, -1))
    return linear(p["out"], h)


def u_net_sizes(width, depth, kernel=()):
    def block(n):
        one = {"scale": (n,), "first": (*kernel, n, width), "b": (width,)}
        one["second"] = (*kernel, width, width)
        return one | ({"shortcut": (*kernel, n, width), "c": (width,)} if n != width else {})

    ends = {"in": (*kernel, 4, width), "out": (*kernel, width, 2)}
    down, up = [block(width)] * depth, [block(2 * width)] * (depth + 1)
    return ends | {"down": down, "up": up}


def with_inputs_again(p, x):
    """A radiance field: every second layer also returns the inputs."""
    h = x
    for i, q in enumerate(p["layers"]):
        h = jax.nn.relu(h @ q["w"] + q["b"])
        h = jnp.concatenate([h, x], -1) if i % 2 == 0 and i else h
    return h @ p["out"]


def field_sizes(width, depth):
    rows = [4, width, width, *[width + 4, width] * ((depth - 3) // 2)]
    layers = [{"w": (n, width), "b": (width,)} for n in rows]
    return {"layers": layers, "out": (width + 4, 2)}


def draw(sizes):
    rng = np.random.default_rng(1)
    one = lambda s: jnp.asarray(rng.normal(size=s) / np.sqrt(s[-2] if len(s) > 1 else 1))
    return jax.tree.map(one, sizes, is_leaf=lambda s: isinstance(s, tuple))


DENSE, CONV = (functools.partial(u_net, linear=f) for f in (dense, convolution))
SKIP_FIRST = functools.partial(DENSE, skip_first=True)
# The model, its sizes, the depths of both, and the width of the big one; the small one's is 4.
CASES = {
    "U-Net": (DENSE, u_net_sizes, 2, 4, 4),
    "U-Net, the part from below last": (SKIP_FIRST, u_net_sizes, 2, 3, 8),
    "U-Net, wider": (CONV, functools.partial(u_net_sizes, kernel=(1,)), 2, 3, 8),
    "radiance field": (with_inputs_again, field_sizes, 3, 5, 4),
    "radiance field, wider": (with_inputs_again, field_sizes, 3, 7, 9),
}


@pytest.mark.parametrize("case", CASES)
def test_one_part_goes_on(case):
    fn, sizes, before, after, width = CASES[case]
    small, big = draw(sizes(4, before)), draw(sizes(width, after))
    wanted = fn(small, X)
    plan = growth.plan(fn, fn, small, big, X)
    read = growth.Plan.from_json(plan.to_json())
    for way, how in ((plan, "uneven"), (read, "even")):
        grown = way.grow(small, key=jax.random.key(0), how=how, like=big)
        assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
        np.testing.assert_allclose(fn(grown, X), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("read", [-2, 0, 1, 2, 3])
def test_new_layers_may_not_change_what_old_ones_read(read):
    """Equal equations are no proof: what is read again may be another layer's result."""

    def chain(p, x):
        seen = [x]
        for w in p["layers"]:
            seen.append(jax.nn.relu(seen[-1] @ w))
        return (seen[-1] + seen[read]) @ p["out"]

    sizes = lambda depth: {"layers": [(4, 4)] * depth, "out": (4, 2)}
    small = draw(sizes(3))
    plan = growth.plan(chain, chain, small, draw(sizes(4)), X)
    np.testing.assert_allclose(chain(plan.grow(small), X), chain(small, X), rtol=0, atol=1e-13)
