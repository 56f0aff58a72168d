"""Symbols that are looked up inside loops and branches, when the vocabulary grows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth
from trainkit.growth.maps.inputs import old_first

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 5, (3, 4)), jnp.int32)
ENDS, MIXED = (0, 2, 3, 4, 6), (6, 0, 3, 4, 1)  # new numbers that keep 0, and others


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def draw(symbols):
    rng = np.random.default_rng(symbols)
    shapes = {"table": (symbols, 3), "core": (3, 3), "out": (3, symbols)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def start(tokens):
    return jnp.zeros((tokens.shape[0], 3))


def scanned(p, tokens, look=lambda p, k: p["table"][k]):
    def step(h, k):
        h = jnp.tanh(look(p, k) + h @ p["core"])
        return h, h @ p["out"]

    return jax.lax.scan(step, start(tokens), tokens.T)[1]


def one_hot(p, tokens):
    hot = lambda p, k: jax.nn.one_hot(k, p["table"].shape[0], dtype=jnp.float64) @ p["table"]
    return scanned(p, tokens, hot)


def batched(p, tokens):
    return jax.vmap(lambda t: scanned(p, t[None]))(tokens)


def counted(p, tokens):
    step = lambda i, h: jnp.tanh(p["table"][tokens[:, i]] + h @ p["core"])
    return jax.lax.fori_loop(0, tokens.shape[1], step, start(tokens)) @ p["out"]


def while_left(p, tokens):
    step = lambda c: (c[0] + 1, jnp.tanh(p["table"][tokens[:, c[0]]] + c[1] @ p["core"]))
    return jax.lax.while_loop(lambda c: c[0] < 4, step, (0, start(tokens)))[1] @ p["out"]


def with_the_last(p, tokens, first=0):
    """The carry holds the token before, which is 0 at the start."""

    def step(carry, k):
        h, last = carry
        h = jnp.tanh(p["table"][k] - p["table"][last] + h @ p["core"])
        return (h, k), h @ p["out"]

    begin = jnp.full(tokens.shape[0], first, tokens.dtype)
    return jax.lax.scan(step, (start(tokens), begin), tokens.T)[1]


def masked(p, tokens):
    def step(h, k):
        new = jnp.tanh(p["table"][k] + h @ p["core"])
        h = jnp.where((k != 0)[:, None], new, h)
        return h, h @ p["out"]

    return jax.lax.scan(step, start(tokens), tokens.T)[1]


def shifted(p, tokens):
    """The loop returns symbols, which are looked up after it."""
    _, before = jax.lax.scan(lambda last, k: (k, last), jnp.zeros_like(tokens[:, 0]), tokens.T)
    return p["table"][before] @ p["out"]


def branched(p, tokens):
    looks = [lambda t: p["table"][t], lambda t: p["table"][t[::-1]]]
    return jax.lax.switch((p["core"].sum() > 0).astype(int), looks, tokens) @ p["out"]


def taken_in_a_branch(p, tokens):
    """The branches return symbols, which are looked up after the loop that they are in."""

    def step(_, k):
        return None, jax.lax.cond(p["core"].sum() > 0, lambda: k, lambda: k[::-1])

    _, found = jax.lax.scan(step, None, tokens.T)
    return p["table"][found] @ p["out"]


def check(fn, places, other=None):
    inputs = growth.NewInputs(symbols={"0": places}, places={("result", -1): places})
    small = draw(5)
    plan = growth.plan(fn, other or fn, small, draw(7), TOKENS, inputs=inputs)
    for how in ("uneven", "noise"):
        grown = plan.grow(small, key=0, how=how)
        after = old_first(plan, (other or fn)(grown, *plan.new_inputs(TOKENS)))[..., :5]
        np.testing.assert_allclose(after, fn(small, TOKENS), rtol=1e-12, atol=1e-13)


KEEP_0 = [with_the_last, masked, shifted]


@pytest.mark.parametrize(
    "fn",
    [scanned, one_hot, batched, counted, while_left, branched, taken_in_a_branch, *KEEP_0],
    ids=lambda f: f.__name__,
)
def test_symbols_in_loops(fn):
    check(fn, ENDS)
    if fn not in KEEP_0:
        check(fn, MIXED)
    if fn is not one_hot:  # without new numbers: old symbols come first
        plan = growth.plan(fn, fn, draw(5), draw(7), TOKENS)
        grown = plan.grow(draw(5), key=0)
        np.testing.assert_allclose(fn(grown, TOKENS)[..., :5], fn(draw(5), TOKENS), rtol=1e-12)


def test_a_carry_that_begins_with_another_number():
    with pytest.raises(growth.GrowthError, match="carry 1 of a loop holds symbols in one pass"):
        check(with_the_last, MIXED)
    own = lambda p, tokens: with_the_last(p, tokens, first=MIXED[0])  # its number in the big model
    check(with_the_last, MIXED, own)
