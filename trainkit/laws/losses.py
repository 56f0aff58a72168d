"""Extra arguments of `update`: a loss whose gradient is the given gradient.

Line searches need a function and its value. At step t, with the parameters p and the random
gradient g that the rule gets, the function is

    f(x) = c ± ⟨g, x − p⟩ + 3/2 ‖x − p‖².

Along any direction it is a parabola, so that the decisions of a search do not depend on rounding.
The argument `value` has c = ½‖p‖². In `value_fn`, c = 0, because a search uses differences of
values, for which a constant costs precision. The sign is minus for a line search alone, which gets
a descent direction instead of a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.reproducers.source import rule

CURVATURE = 3.0
FUNCTIONS = ("value_fn", "obj_fn")
# The code and the value of each supplied argument, from (p, g, f, sign).
WORDS = {"value": "loss_at(p, g)(p)", "loss": "loss_at(p, g)(p)", "value_fn": "loss_at(p, g)",
         "obj_fn": "loss_at(p, g)"}  # fmt: skip
NAMES = (*WORDS, "grad")


def loss_at(p: Any, g: Any, sign: float = 1.0, offset: bool = True) -> Callable[[Any], Any]:
    """The function f of the module docstring."""
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    dot = lambda a, b: sum(
        jnp.sum(wide(x) * wide(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    start = dot(p, p) / 2 if offset else 0.0

    def f(x: Any) -> Any:
        off = jax.tree.map(lambda a, b: wide(a) - wide(b), x, p)
        return start + sign * dot(g, off) + CURVATURE / 2 * dot(off, off)

    return f


def made_up(needs: Sequence[str], p: Any, g: Any, sign: float) -> dict[str, Any]:
    """The arguments named in `needs`."""
    f = loss_at(p, g, sign, offset=not set(FUNCTIONS) & set(needs))
    out: dict[str, Any] = {}
    for name in needs:
        if name == "grad":
            out[name] = g if sign > 0 else jax.tree.map(jnp.negative, g)
        else:
            out[name] = f if name in FUNCTIONS else f(p)
    return out


def in_numpy(
    needs: Sequence[str], ps: Sequence[Any], gs: Sequence[Any], sign: float
) -> dict[str, Any]:
    """The same arguments for a reference: lists of arrays, in float64."""
    long = lambda xs: np.concatenate([np.ravel(x).astype(np.float64) for x in xs])
    p, g = long(ps), long(gs)
    searched = bool(set(FUNCTIONS) & set(needs))
    start = 0.0 if searched else float(p @ p) / 2

    def f(xs: Sequence[Any]) -> float:
        off = long(xs) - p
        return float(start + sign * (g @ off) + CURVATURE / 2 * (off @ off))

    if not searched:
        return {"value": start}
    return {"value": start, "value_fn": f, "grad": [sign * x for x in gs]}


def code(needs: tuple[str, ...], extra: Any, sign: float) -> str:
    """Lines of a reproducer that supply the extra arguments to `tx` (or by `supplied(rule)`)."""
    if not needs and extra is None:
        return ""
    given = ["grad=g" if sign > 0 else "grad=jax.tree.map(jnp.negative, g)"] * ("grad" in needs)
    given += [f"{name}={WORDS[name]}" for name in needs if name in WORDS]
    lines = "\n"
    if set(needs) & set(WORDS):
        start = "0.0" if set(FUNCTIONS) & set(needs) else "dot(p, p) / 2"
        lines = _LOSS.format(sign="+" if sign > 0 else "-", start=start, half=CURVATURE / 2)
    if callable(extra):
        lines += rule(extra, "extra", None, None) + "\n"
        given.append("**extra(p, g)")
    elif extra is not None:
        lines += rule(dict(extra), "extra", None, None) + "\n"
        given.append("**extra")
    return lines + (
        "supplied = lambda rule: optax.GradientTransformationExtraArgs(\n    rule.init,\n"
        f"    lambda g, s, p=None, **more: rule.update(g, s, p, {', '.join(given)}, **more),\n)\n"
        "bare, tx = tx, supplied(tx)\n"
    )


_LOSS = """
# The rule gets a loss that has the gradient it is given (a search: the opposite one).
def loss_at(p, g):
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, 'float32'))
    leaves = jax.tree.leaves
    dot = lambda a, b: sum((wide(x) * wide(y)).sum() for x, y in zip(leaves(a), leaves(b)))
    off = lambda x: jax.tree.map(lambda a, b: wide(a) - wide(b), x, p)
    return lambda x: {start} {sign} dot(g, off(x)) + {half} * dot(off(x), off(x))
"""
