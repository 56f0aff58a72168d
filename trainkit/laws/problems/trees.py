"""Trees of parameters: of every form, compared with each other, and written as code."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.reproducers.literals import literal


class Pair(NamedTuple):
    """A user's own container, as parameter trees have them."""

    first: Any
    second: Any


def structures(dtype: str = "float32") -> dict[str, Any]:
    """Parameter trees of every form, small; values differ from leaf to leaf."""
    rng = np.random.default_rng(3)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.dtype(dtype))
    return {
        "nested dicts": {"a": {"b": {"c": draw(2)}, "d": draw(3)}},
        "a tuple": (draw(2), draw(2, 2)),
        "a list": [draw(2), [draw(3)]],
        "a NamedTuple": Pair(draw(2), {"x": draw(3)}),
        "a bare array": draw(3),
        "an empty tree": {},
        "an empty subtree": {"a": draw(2), "none": {}, "nothing": (), "no": None},
        "a scalar leaf": {"s": draw(), "v": draw(2)},
        "a leaf of size 0": {"z": draw(0), "v": draw(2), "m": draw(0, 3)},
        "a 1×1 leaf": {"m": draw(1, 1), "v": draw(1)},
        "a leaf of rank 4": {"k": draw(2, 1, 3, 2)},
    }


def same_tree(found: Any, wanted: Any, types: bool = True) -> str | None:
    """What differs in structure, shape or dtype, or None."""
    a: Any
    b: Any
    a, b = jax.tree.structure(found), jax.tree.structure(wanted)
    if a != b:
        return f"the tree {a} where {b} was expected"
    for (path, x), y in zip(
        jax.tree_util.tree_flatten_with_path(found)[0], jax.tree.leaves(wanted), strict=True
    ):
        where = f"leaf {jax.tree_util.keystr(path) or '(the whole)'}"
        if jnp.shape(x) != jnp.shape(y):
            return f"{where} has shape {jnp.shape(x)} where {jnp.shape(y)} was expected"
        if types and _dtype(x) != _dtype(y):
            return f"{where} is {_dtype(x)} where {_dtype(y)} was expected"
    return None


def _dtype(x: Any) -> str:
    return str(getattr(x, "dtype", None) or jnp.result_type(x))


def bits(tree: Any) -> list[Any]:
    out = []
    for x in jax.tree.leaves(tree):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        out.append(np.asarray(x))
    return out


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees hold the same values to the last bit (NaN equals NaN)."""
    xs, ys = bits(a), bits(b)
    return len(xs) == len(ys) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(xs, ys, strict=True)
    )


def tree_code(tree: Any) -> str:
    """A tree as an expression; user containers become tuples, as a reproducer has no such class."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return tree_code(tuple(tree))
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k!r}: {tree_code(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + "".join(tree_code(v) + ", " for v in tree) + ")"
    if isinstance(tree, list):
        return "[" + ", ".join(tree_code(v) for v in tree) + "]"
    return literal(tree)


def setup(params: Any, grads: Any) -> str:
    return f"params = {tree_code(params)}\ngrads = {tree_code(grads)}\n"


RELATIVE = 1e-5


def spread(expected: np.ndarray) -> np.ndarray:
    """What rounding may do in float32, relative to the largest number around."""
    return RELATIVE * np.abs(expected) + RELATIVE / 10 * np.abs(expected).max(initial=0.0)


def gap_of(one: list[Any], two: list[Any], tight: float = 1.0) -> tuple[int, float]:
    """(step, how many times the tolerance) of the largest difference of two runs."""
    worst, at = 0.0, 0
    for t, (a, b) in enumerate(zip(one, two, strict=True)):
        for x, y in zip(bits(a), bits(b), strict=True):
            x, y = x.astype(np.float64), y.astype(np.float64)
            with np.errstate(all="ignore"):
                ratio = np.abs(x - y) / (tight * spread(x) + 1e-300)
            ratio = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, ratio)
            ratio = np.nan_to_num(ratio, nan=np.inf, posinf=np.inf)
            if ratio.max(initial=0.0) > worst:
                worst, at = float(ratio.max()), t
    return at, worst


def cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), tree)
