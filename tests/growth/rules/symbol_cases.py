"""Uses of symbols with new numbers that growth refuses, and loops that run more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trainkit import growth

MAP = (0, 7, 3, 4, 1)  # the new numbers of five symbols, of eight
TOKENS = np.random.default_rng(0).integers(0, 5, (2, 6))


def rows(p: Any, t: Any) -> Any:
    """A lookup that takes no negative index."""
    numbers = lax.GatherDimensionNumbers((t.ndim,), (0,), (0,))
    return lax.gather(p["embed"], t[..., None], numbers, (1, 3), mode="fill")


def ranges(p: Any, t: Any) -> Any:
    numbers = lax.GatherDimensionNumbers((1, 2), (), (0,))
    return lax.gather(p["embed"], t[:, :1], numbers, (2, 3), mode="promise_in_bounds").sum(1)


def hot(t: Any, numbers: Any) -> Any:
    return (t[..., None] == numbers).astype(float)


def where(test: Any, p: Any, t: Any) -> Any:
    return jnp.where(test[..., None], p["embed"][t], 1.0)


# A use, and what the error says.
USES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "arithmetic": (lambda p, t: t[..., None].astype(float) * p["embed"][0], "symbols as numbers"),
    "counted": (lambda p, t: p["embed"][jnp.cumsum(t, 1)], "symbols as numbers"),
    "a sum in a loop": (
        lambda p, t: lax.scan(lambda c, i: (c + i, p["embed"][i]), t[0] * 0, t)[1],
        "symbols as numbers",
    ),
    "a carry": (
        lambda p, t: p["embed"][lax.scan(lambda c, i: (i, c), jnp.full(6, 2), t)[1]],
        "symbols in one pass",
    ),
    "a branch of its own": (
        lambda p, t: lax.switch(t[0, 0], [lambda x, i=i: x * i for i in range(8)], p["embed"][t]),
        "a branch by a symbol",
    ),
    "one branch alone": (
        lambda p, t: p["embed"][lax.cond(p["w"].sum() > 0, lambda t: t, jnp.zeros_like, t)],
        "one branch returns symbols",
    ),
    "a position": (
        lambda p, t: lax.dynamic_slice_in_dim(p["fixed"], t[0, 0], 2), "symbols as numbers",
    ),
    "symbols of symbols": (lambda p, t: p["embed"][t[0][t]], "symbols as numbers"),
    "the next symbol": (lambda p, t: p["embed"][t + 1], "symbols as numbers"),
    "the next is compared": (lambda p, t: where(t + 1 == 1, p, t), "symbols as numbers"),
    "an order": (lambda p, t: where(t > 1, p, t), "compares symbols with 1"),
    "in order": (lambda p, t: where(t < t[:, :1], p, t), "orders symbols"),
    "another number": (lambda p, t: p["embed"][jnp.where(t == 0, 2, t)], "mixes symbols with"),
    "the greater of two": (lambda p, t: p["embed"][jnp.maximum(t, t[:, :1])], "bounds symbols"),
    "bounded": (lambda p, t: p["embed"][jnp.minimum(t, 3)], "bounds symbols, and changes"),
    "every second": (lambda p, t: hot(t, np.arange(0, 10, 2)) @ p["embed"][:5], "0, 1, 2"),
    "a range": (ranges, "a range that begins at a symbol"),
    "two indices": (lambda p, t: p["w"][t, t][..., None] * p["embed"][0], "several components"),
    "a table that does not grow": (lambda p, t: p["fixed"][t], "do not grow"),
    "a table of another size": (lambda p, t: p["large"][t], "among 6 → 9 rows"),
}  # fmt: skip
# Uses of several symbols at once, whose number grows.
FEATURES = {
    "rows of new symbols": lambda p, t: rows(p, t),
    "one-hot of new symbols": lambda p, t: hot(t, np.arange(len(p["embed"]))) @ p["embed"],
}


def shapes(n: int, m: int) -> Any:
    f = lambda *shape: jax.ShapeDtypeStruct(shape, np.float64)
    return {"embed": f(n, 3), "w": f(3, 2), "fixed": f(5, 3), "large": f(m, 3)}


def planned(use: Callable[[Any, Any], Any], wide: int = 6) -> growth.Plan:
    fn = lambda p, t: jnp.tanh(use(p, t)).sum(-2) @ p["w"]
    example = np.zeros((2, wide), TOKENS.dtype)
    new = growth.NewInputs(example, symbols={"0": MAP})
    return growth.plan(fn, fn, shapes(5, 6), shapes(8, 9), TOKENS, inputs=new)


def two_inputs() -> growth.Plan:
    """Symbols of two vocabularies are compared."""
    fn = lambda p, t, u: where(t == u, p, t).sum(1) @ p["w"]
    new = growth.NewInputs((TOKENS, TOKENS), symbols={"0": MAP, "1": (0, 1, 2)})
    return growth.plan(fn, fn, shapes(5, 6), shapes(8, 9), TOKENS, TOKENS, inputs=new)


def passes(count: int, width: int = 5, outputs: bool = False) -> tuple[Callable[..., Any], Any]:
    """A loop over shared weights, and the shapes of its parameters."""

    def fn(p: Any, x: Any) -> Any:
        step = lambda h, _: (h + jnp.tanh(h @ p["up"]) @ p["down"], h.sum() if outputs else None)
        h, more = lax.scan(step, x, None, length=count)
        return h + more.sum() if outputs else h

    f = lambda *shape: jax.ShapeDtypeStruct(shape, np.float64)
    return fn, {"up": f(3, width), "down": f(width, 3)}
