"""Constants of the two programs: whether the big one is a scaled duplicate of the small one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import numpy as np

from trainkit.growth.analysis.joint_program import Analysis, EquationPair
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import find
from trainkit.growth.axes.layouts import Layouts
from trainkit.growth.axes.linear import ZERO, Expr, constant
from trainkit.growth.axes.queries import labels, source_map
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.constants import Const

FEW = 64  # units of an axis that are compared first
PIECE = 2**20  # elements that are compared at once


def exact_ratio(r: float, eps: float) -> float:
    """log r, with r replaced by a nearby root of a small fraction, if there is one within rounding.

    Constants of models are sizes, or roots of sizes, rounded to the model's precision.
    """
    best: tuple[float, float] | None = None
    for power in (1, 2, 4):
        value = r**power
        for q in range(1, 65):
            p = round(value * q)
            if p and abs(p / (q * value) - 1) < 3 * power * eps:
                simplicity = p * q * power
                if best is None or simplicity < best[0]:
                    best = simplicity, math.log(p / q) / power
                break
    return best[1] if best is not None else math.log(r)


def compare(value: Value, layouts: Layouts) -> np.ndarray | None:
    """The scale of each block of a constant, under a choice of layouts.

    Returns:
      object[labels of each axis] of expressions (`None`: any scale fits), or `None` if the big
      constant is not a scaled duplicate.
    """
    assert value.const is not None
    small, big = value.const
    axes = [find(a) for a in value.axes]
    segments = [labels(a) for a in axes]
    result = np.full(tuple(len(cells) for _, cells in segments), None, object)
    if small.uniform is not None and big.uniform is not None:
        c, d = np.asarray(small.uniform)[None], np.asarray(big.uniform)[None]
        scale = _ratio(c, d)
        if scale is False:
            return None
        for block in np.ndindex(result.shape):
            result[block] = scale
        return result
    # Along an axis on which both constants repeat, one element is enough.
    repeats = [n == m == 1 for n, m in zip(small.core_shape, big.core_shape, strict=True)]
    if small.key == big.key and all(
        same or (a.fixed and len(cells) == 1)
        for same, a, (_, cells) in zip(repeats, axes, segments, strict=True)
    ):
        result[...] = ZERO
        return result
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):  # random keys
        result[...] = ZERO
        return result if small.key == big.key else None
    sources = [source_map(x, layouts.source) for x in axes]
    if any(a.fixed and len(s) > FEW for a, s in zip(axes, sources, strict=True)):
        # A part of a large table is enough for most refusals.
        part = [FEW if a.fixed else None for a in axes]
        if not _fill(np.empty_like(result), value, segments, sources, repeats, part):
            return None
    whole = [None] * len(axes)
    return result if _fill(result, value, segments, sources, repeats, whole) else None


def _fill(
    result: np.ndarray,
    value: Value,
    segments: Sequence[tuple[np.ndarray, list]],
    sources: Sequence[np.ndarray],
    repeats: Sequence[bool],
    most: Sequence[int | None],
) -> bool:
    """Writes the scale of each block, from at most so many units of each axis; whether there is."""
    assert value.const is not None
    big_labels = [t[0][np.where(s < 0, 0, s)] for t, s in zip(segments, sources, strict=True)]
    for block in np.ndindex(result.shape):
        picked = [
            np.flatnonzero((s >= 0) & (lab == label))[:few]
            for s, lab, label, few in zip(sources, big_labels, block, most, strict=True)
        ]
        scale = _scale(value.const, picked, sources, repeats, slack(rounding(value)))
        if scale is False:
            return False
        result[block] = scale
    return True


def _scale(
    const: tuple[Const, Const],
    picked: Sequence[np.ndarray],
    sources: Sequence[np.ndarray],
    repeats: Sequence[bool],
    tolerance: float,
) -> Expr | Literal[False] | None:
    """The scale of one block, compared piece by piece: `picked` are its units in the big model."""
    picked = [p[:1] * 0 if same else p for p, same in zip(picked, repeats, strict=True)]
    found: Expr | None = None
    for new in pieces(picked):
        old = [p if same else s[p] for p, s, same in zip(new, sources, repeats, strict=True)]
        scale = _ratio(_piece(const[0], old), _piece(const[1], new))
        if scale is False:
            return False
        if found is None:
            found = scale
        elif scale is not None and abs(scale.get(0, 0.0) - found.get(0, 0.0)) > tolerance:
            return False
    return found


def pieces(picked: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The entries of a table, given by its entries along each axis, in small pieces."""
    longest = int(np.argmax([len(p) for p in picked])) if picked else 0
    rest = math.prod(len(p) for d, p in enumerate(picked) if d != longest)
    step = max(1, PIECE // max(rest, 1))
    for start in range(0, len(picked[longest]) if picked else 1, step):
        yield [p[start : start + step] if d == longest else p for d, p in enumerate(picked)]


def side_by_side(value: Value) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The elements of a constant in both programs, of one shape, as vectors, piece by piece."""
    assert value.const is not None
    assert value.small == value.big
    small, big = value.const
    repeats = [n == m == 1 for n, m in zip(small.core_shape, big.core_shape, strict=True)]
    sizes = zip(value.small, repeats, strict=True)
    for some in pieces([np.arange(min(n, 1) if same else n) for n, same in sizes]):
        yield _piece(small, some), _piece(big, some)


def zero_at(const: Const, d: int, places: np.ndarray) -> bool:
    """Whether a constant is 0 at some places along axis d."""
    if const.core_shape[d] == 1:
        places = places[:1] * 0
    along = [places if e == d else np.arange(n) for e, n in enumerate(const.core_shape)]
    return not any(np.any(const.part(some)) for some in pieces(along))


def _piece(const: Const, picks: Sequence[np.ndarray]) -> np.ndarray:
    """Some entries of a constant along each axis, as a vector."""
    return np.broadcast_to(const.part(picks), [len(p) for p in picks]).reshape(-1)


def _ratio(c: np.ndarray, d: np.ndarray) -> Expr | Literal[False] | None:
    """log(d / c) if the ratio is one positive number, `None` if all elements are 0 or not finite,
    `False` if there is no such ratio."""
    if c.dtype == np.bool_ or d.dtype == np.bool_:
        return (ZERO if c.any() else None) if np.array_equal(c, d) else False
    if c.dtype == d.dtype and np.array_equal(c, d) and np.isfinite(c).all():  # the usual case
        return ZERO if c.any() else None
    kind = c.dtype
    eps = float(np.finfo(kind).eps) if kind.kind in "fc" else _low_precision(kind)
    if kind.kind != "c":
        c, d = c.astype(np.float64), d.astype(np.float64)
    finite = np.isfinite(c)
    if not np.array_equal(finite, np.isfinite(d)):
        return False
    if not np.array_equal(c[~finite], d[~finite], equal_nan=True):
        return False
    c, d = c[finite], d[finite]
    if not np.array_equal(c != 0, d != 0):
        return False
    c, d = c[c != 0], d[d != 0]
    if not len(c):
        return None
    ratios = d / c
    if kind.kind == "c":
        if np.abs(ratios.imag).max() > slack(eps):
            return False
        ratios = ratios.real
    r = float(np.median(ratios))
    if r <= 0 or np.abs(ratios / r - 1).max() > slack(eps):
        return False
    return constant(exact_ratio(r, eps))


def slack(eps: float) -> float:
    """How far two tables that are the same may differ, relatively: by some roundings.

    In half precision that is an element's own rounding in both: 16 ε of bfloat16 would be .125, as
    much as the elements of tables of different sizes differ by.
    """
    return 16 * eps if eps < 1e-6 else 2 * eps


def rounding(value: Value) -> float:
    """The relative rounding of a constant's dtype."""
    kind = np.dtype(value.dtype)
    return float(np.finfo(kind).eps) if kind.kind in "fc" else _low_precision(kind)


def _low_precision(dtype) -> float:
    import ml_dtypes

    try:
        return float(ml_dtypes.finfo(dtype).eps)
    except (ValueError, TypeError):
        return float(np.finfo(np.float64).eps)  # whole numbers


def no_duplicate(analysis: Analysis, v: Value, pair: EquationPair) -> Conflict:
    """The conflict of a constant, at an equation that uses it."""
    grown = [a for a in v.axes if not find(a).fixed]
    assert v.const is not None
    what = f"a constant of shape {list(v.const[0].shape)} → {list(v.const[1].shape)}"
    if not grown:
        return analysis.conflict(
            f"{what} differs between the two programs by more than one positive factor",
            "layouts",
            pair=pair,
            hint="use the same constants in both models",
        )
    return analysis.conflict(
        f"{what} is not a duplicate of the small model's: a table (of frequencies, positions, "
        "slopes) that depends on the size of this axis changes the old entries",
        "layouts",
        grown,
        pair,
        hint="grow another axis: heads instead of head_dim under rotary tables, head_dim instead "
        "of heads under ALiBi slopes, hidden widths instead of a residual stream with sinusoidal "
        "positions (or make the table a parameter); plan with dropout off",
    )
