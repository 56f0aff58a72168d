"""Which parameters, at 0, keep a new block out of every result."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.growth.ir.unknown import called_back, strange
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.zero_analysis import nearest_zeros, zeros

X, UP, DOWN, BIAS = jnp.ones((2, 4)), jnp.ones((4, 8)), jnp.ones((8, 4)), jnp.ones(4)
BLOCKS = {
    "branch": (lambda x, up, down, bias: x + jnp.tanh(x @ up) @ down + bias, {2, 3}),
    "gated": (lambda x, up, down, bias: x + jnp.tanh(bias) * jnp.cos(x @ up @ down), {3}),
    "the nearest": (lambda x, up, down, bias: x + jnp.sin((x @ up) @ down) * 2, {2}),
    "behind a maximum": (lambda x, up, down, b: x + jnp.max(x @ up @ down, 1)[:, None], {2}),
    "behind limits": (lambda x, up, down, b: x + jnp.clip(x @ up @ down, -9, 9), {2}),
    "behind a limit": (lambda x, up, down, b: x + jnp.minimum(2.0, x @ up @ down), {2}),
    "behind a clamp": (lambda x, up, down, b: x + lax.clamp(-1.0, x @ up @ down, 1.0), {2}),
    "of two cases": (lambda x, up, down, b: x + jnp.where(x > 0, x * b, x @ up @ down), {2, 3}),
    "parts": (lambda x, up, down, b: x + jnp.concatenate([x[:, :2] * b[:2]] * 2, 1), {3}),
    "a loop over what is carried": (
        lambda x, up, down, b: x + lax.scan(lambda c, _: (c * 2, None), x * b, None, 2)[0],
        {3},
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_nearest(name):
    block, wanted = BLOCKS[name]
    leaves = (X, UP, DOWN, BIAS)
    found = nearest_zeros(Folder().flatten(jax.make_jaxpr(block)(*leaves)), {1, 2, 3})
    assert found == dict.fromkeys(wanted, "zero")
    assert (block(*(0 * v if i in found else v for i, v in enumerate(leaves))) == X).all()


@pytest.mark.parametrize(
    "limit",
    [lambda x: jnp.maximum(x, 1.0), lambda x: lax.clamp(0.5, x, 1.0), lambda x: jnp.minimum(x, -1)],
)
def test_limits_that_0_does_not_keep_to(limit):
    program = Folder().flatten(jax.make_jaxpr(lambda x, w: limit(x @ w))(X, UP))
    assert zeros(program, {1}).of(program.outs[0]).distance == math.inf


@pytest.mark.parametrize("fn", [strange, called_back])
def test_what_is_unknown_does_not_keep_zero(fn):
    """A known function between two factors is 0 by the nearer; behind an unknown one that is not
    said, and what is named is the factor that makes 0 of it."""
    block = lambda x, far, near: x + jnp.sin(x * far) * fn(x * near)
    program = Folder().flatten(jax.make_jaxpr(block)(*[jnp.ones(3)] * 3))
    assert nearest_zeros(program, {1, 2}) == {1: "zero"}
    plain = lambda x, far, near: x + jnp.sin(jnp.sin(x * far)) * jnp.sin(x * near)
    program = Folder().flatten(jax.make_jaxpr(plain)(*[jnp.ones(3)] * 3))
    assert nearest_zeros(program, {1, 2}) == {2: "zero"}


def test_differences_from_1():
    """1 + γ is as near as γ, whatever its shape, and what cannot be both −1 and 1 is neither."""

    def block(x, g, h, w):
        return x + jnp.sin(x @ w) * (1 + jnp.expand_dims(g, 0)), x + (jnp.sin(x) @ w) * (h - 1)

    both = lambda x, g, h, w: (x + jnp.sin(x @ w) * (1 + g), x + jnp.sin(x @ w) * (g - 1))
    leaves = X, jnp.ones(4), jnp.ones(4), jnp.ones((4, 4))
    for fn, wanted in ((block, {1: "minus_one", 2: "unit"}), (both, {1: "zero"})):
        program = Folder().flatten(jax.make_jaxpr(fn)(*leaves))
        assert nearest_zeros(program, {1, 2, 3}) == wanted
