"""Comparison of trees and trajectories: structure, bits, values within a tolerance."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name

RELATIVE = 1e-5


def same_tree(found: Any, wanted: Any, types: bool = True) -> str | None:
    """The first difference in structure, shape or dtype, in words, or `None`."""
    a: Any
    b: Any
    a, b = jax.tree.structure(found), jax.tree.structure(wanted)
    if a != b:
        return f"the tree {a} where {b} was expected"
    for (path, x), y in zip(
        jax.tree_util.tree_flatten_with_path(found)[0], jax.tree.leaves(wanted), strict=True
    ):
        where = f"leaf {path_name(path)!r}" if path else "the whole"
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


def spread(expected: np.ndarray) -> np.ndarray:
    """The float32 tolerance, relative to the largest number nearby."""
    return RELATIVE * np.abs(expected) + RELATIVE / 10 * np.abs(expected).max(initial=0.0)


def gap_of(one: list[Any], two: list[Any], tight: float = 1.0) -> tuple[int, float]:
    """(step, multiple of the tolerance) of the largest difference between two runs."""
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


class Mismatch(NamedTuple):
    """The first difference between a trajectory and the expected one."""

    step: int
    at: int
    found: float
    expected: float
    tolerance: float


def mismatch(found: Any, expected: Any, tolerance: Any) -> Mismatch | None:
    """The first step with |found − expected| > tolerance, and the worst element in it."""
    with np.errstate(all="ignore"):
        gap = np.abs(found - expected)
        bad = ~(gap <= tolerance)  # a NaN is bad
    if not bad.any():
        return None
    t = int(np.argmax(bad.any(axis=1)))
    with np.errstate(all="ignore"):
        excess = np.where(bad[t], np.nan_to_num(gap[t] / (tolerance[t] + 1e-300), nan=np.inf), -1)
    j = int(np.argmax(excess))
    return Mismatch(t, j, float(found[t, j]), float(expected[t, j]), float(tolerance[t, j]))
