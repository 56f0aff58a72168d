"""Constants of the two programs: is the big one the small one's duplicate, and at what scale?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NoReturn

import numpy as np

from trainkit.growth.analysis.joint_program import Analysis, EquationPair, Value
from trainkit.growth.axes.axis import find
from trainkit.growth.axes.layouts import LAYOUTS, repeated
from trainkit.growth.axes.linear import ZERO, constant
from trainkit.growth.axes.reading import grown_leaves, labels, source_map

SEARCHED = ("repeat", "tile", "stride")


def exact_ratio(r: float, eps: float) -> float:
    """log r, with r rounded to the root of a small fraction where it is one to within rounding.

    Constants are sizes, or roots of sizes, that were rounded to the model's precision.
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


def compare(value: Value) -> np.ndarray | None:
    """The scale of each block, or `None` where the big constant is no scaled duplicate."""
    assert value.const is not None
    small, big = value.const
    axes = [find(a) for a in value.axes]
    told = [labels(a) for a in axes]
    result = np.full(tuple(len(cells) for _, cells in told), None, object)
    if small.uniform is not None and big.uniform is not None:
        c, d = np.asarray(small.uniform)[None], np.asarray(big.uniform)[None]
        scale = _ratio(c, d)
        if scale is False:
            return None
        for block in np.ndindex(result.shape):
            result[block] = scale
        return result
    if small.key == big.key and all(a.fixed for a in axes) and result.size == 1:
        result[(0,) * result.ndim] = ZERO
        return result
    a, b = small.value, big.value
    if not isinstance(a, np.ndarray):
        same = small.key == big.key
        for block in np.ndindex(result.shape):
            result[block] = ZERO
        return result if same else None
    sources = [source_map(x) for x in axes]
    big_labels = [t[0][np.where(s < 0, 0, s)] for t, s in zip(told, sources, strict=True)]
    for block in np.ndindex(result.shape):
        picked = [
            np.flatnonzero((s >= 0) & (lab == label))
            for s, lab, label in zip(sources, big_labels, block, strict=True)
        ]
        old = a[np.ix_(*[s[p] for s, p in zip(sources, picked, strict=True)])]
        scale = _ratio(old.reshape(-1), np.asarray(b[np.ix_(*picked)]).reshape(-1))
        if scale is False:
            return None
        result[block] = scale
    return result


def _ratio(c: np.ndarray, d: np.ndarray):
    """The log of d / c if that is one positive number, `None` if all is 0 or not finite."""
    if c.dtype == np.bool_ or d.dtype == np.bool_:
        return (ZERO if c.any() else None) if np.array_equal(c, d) else False
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
    if np.array_equal(c, d):
        return ZERO
    ratios = d / c
    if kind.kind == "c":
        if np.abs(ratios.imag).max() > 8 * eps:
            return False
        ratios = ratios.real
    r = float(np.median(ratios))
    if r <= 0 or np.abs(ratios / r - 1).max() > 16 * eps:
        return False
    return constant(exact_ratio(r, eps))


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


def all_pairs(pairs: Iterable[EquationPair]) -> Iterable[EquationPair]:
    for pair in pairs:
        yield pair
        for body in pair.bodies:
            yield from all_pairs(body.equations)


_PICKS = ("slice", "gather", "dynamic_slice", "split")


def choose_layouts(analysis: Analysis, values: Iterable[Value], pairs: list[EquationPair]) -> dict:
    """Fixes the index map of every grown leaf; returns leaf uid -> name of its layout.

    Copies of a unit are put side by side, unless a constant says that they belong elsewhere.
    """
    users: dict[int, EquationPair] = {}
    constants: list[Value] = []
    named: dict[int, str] = {}
    every = list(values)
    for pair in all_pairs(pairs):
        for v in [*pair.ins, *pair.outs, *(o for b in pair.bodies for o in b.outs)]:
            every.append(v)
            if v.const is not None and v.choice is None:
                constants.append(v)
                users.setdefault(id(v), pair)
    for v in every:
        for axis in v.axes:
            for leaf in grown_leaves(axis):
                if leaf.uid not in named:
                    named[leaf.uid] = "repeat"
                    leaf.source = repeated(leaf.small, leaf.big)
    used = {
        leaf.uid
        for pair in all_pairs(pairs)
        for v in (*pair.outs, *(() if pair.name in _PICKS else pair.ins))
        for axis in v.axes
        for leaf in grown_leaves(axis)
    }
    bound: set[int] = set()
    for _, value in analysis.params:
        for axis in value.axes:
            for leaf in grown_leaves(axis):
                if leaf.uid not in used:  # the places of a table that this length does not reach
                    give_layout(analysis, leaf, "append", None, named, bound)
    for axis, layout, asked in analysis.forced:
        give_layout(analysis, find(axis), layout, asked, named, bound)
    for v in constants:
        assert v.const is not None
        moving = list(dict.fromkeys(leaf for a in v.axes for leaf in grown_leaves(a)))
        if not moving or (v.const[0].uniform is not None and v.const[1].uniform is not None):
            continue
        free = [leaf for leaf in moving if leaf.uid not in bound]
        bound.update(leaf.uid for leaf in moving)
        for option in itertools.product(SEARCHED, repeat=len(free)):
            for leaf, name in zip(free, option, strict=True):
                source = LAYOUTS[name](leaf.small, leaf.big)
                leaf.source, named[leaf.uid] = source, name
            if any(leaf.source is None for leaf in free):
                continue
            scale = compare(v)
            if scale is None:
                continue
            # A table that fits elsewhere only when it is rescaled fits by accident.
            if set(option) <= {"repeat"} or all(not e for e in scale.flat):
                break
        else:
            refuse_constant(analysis, v, users[id(v)])
    return named


def give_layout(analysis: Analysis, axis, layout: str, pair, named: dict, bound: set) -> None:
    """Gives an axis the layout that an equation (or the caller, `None`) asks for."""
    equation = pair.small if pair is not None else None
    if axis.kind != "leaf":
        analysis.fail(
            f"units can only be put at the end of a plain axis, and this one is made of others "
            f"({layout})",
            axes=(axis,),
            hint="grow the factors of the axis one by one",
            equation=equation,
        )
    if axis.uid in bound and named[axis.uid] != layout:
        analysis.fail(
            f"the new units of one axis would have to be placed in two ways: {named[axis.uid]} "
            f"and {layout}",
            axes=(axis,),
            equation=equation,
        )
    axis.source = LAYOUTS[layout](axis.small, axis.big)
    named[axis.uid] = layout
    bound.add(axis.uid)


def refuse_constant(analysis: Analysis, v: Value, pair: EquationPair) -> NoReturn:
    grown = [a for a in v.axes if not find(a).fixed]
    assert v.const is not None
    what = f"a constant of shape {list(v.const[0].shape)} → {list(v.const[1].shape)}"
    if not grown:
        pair.fail(
            f"{what} differs between the two programs by more than one positive factor",
            hint="give both models the same constants",
        )
    pair.fail(
        f"{what} in the program is no duplicate of the small model's: a table (of frequencies, "
        "positions, slopes) that depends on the size of this axis changes the old entries",
        axes=grown,
        hint="grow another axis: heads instead of head_dim under rotary tables, head_dim instead "
        "of heads under ALiBi slopes, hidden widths instead of a residual stream with sinusoidal "
        "positions (or make the table a parameter); plan with dropout off",
    )
