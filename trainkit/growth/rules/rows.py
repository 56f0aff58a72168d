"""Tables whose new rows are copies of old ones, because other constants pick them.

The small program picks row s[p] at place p, with s a constant, and the big one row b[p]. If new row
b[p] is a copy of old row s[p] for every p, the same rows are picked (relative positions in more
buckets, each within an old one).
"""

from __future__ import annotations

import itertools

import numpy as np

from trainkit.growth.analysis.constants import side_by_side
from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import find
from trainkit.growth.axes.layouts import COPIES, repeated
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.rules import indexing

_WHAT = "the rows of a table are picked by other constants in the big model"
_HINT = (
    "let the rows (buckets) of the big model divide those of the small one, in their order: "
    "a new row can be a copy of one old row alone"
)


def gather_axes(pair: EquationPair) -> None:
    seen = _seen(pair)
    if seen is None:
        return indexing.gather_axes(pair)
    (d,) = pair.params["dimension_numbers"].start_index_map
    source = _filled(pair, seen, pair.ins[0].small[d])
    pair.notes["copied"] = True
    counts = np.bincount(source).tolist()
    return indexing.gather_axes(pair, layout=(COPIES, *counts), inside=True)


def gather_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    if "copied" in pair.notes:
        copied(scales, pair)
    indexing.gather_scales(scales, pair)


def copied(scales: ScalePropagation, pair: EquationPair) -> None:
    """Every copy of a row is looked up by itself: it has no share, and its own gradient."""
    x, table = scales.read(pair.ins[0]), pair.params["dimension_numbers"].collapsed_slice_dims
    scales.mark_order_sensitive(x, table)
    for (d, _, _), expr in x.exponents.items():
        if d in table:
            scales.splits.require_zero(expr)
    scales.looked_up |= {leaf.uid for d in table for leaf in grown_leaves(x.axes[d])}


def _seen(pair: EquationPair) -> np.ndarray | None:
    """int64[m]: the old row in the places of each new one, −1 for rows that are picked nowhere.

    `None` if the rows of a table that grows are not picked by other constants.
    """
    x, index = pair.ins
    n = pair.params["dimension_numbers"]
    table = [d for d in n.collapsed_slice_dims if not find(x.axes[d]).fixed]
    if index.const is None or index.small != index.big or table != list(n.start_index_map):
        return None
    small, big = index.const
    if len(table) != 1 or small.key == big.key:
        return None
    axis = find(x.axes[table[0]])
    facts = pair.analysis.folder.constants.facts  # layers pick by the same constants
    key = ("rows", small.key, big.key, index.small, axis.small, axis.big)
    if key not in facts:
        facts[key] = _compared(index, axis.small, axis.big)
    seen = facts[key]
    if isinstance(seen, tuple):
        row, *two = seen
        pair.fail(
            f"{_WHAT}: row {row} of the big one would have to be a copy of two rows, {min(two)} "
            f"and {max(two)}",
            axes=(axis,),
            hint=_HINT,
        )
    same = seen is None or (seen < 0) | (seen == np.arange(axis.big))
    return None if np.all(same) else seen


def _compared(index: Value, n: int, m: int) -> np.ndarray | tuple[int, int, int] | None:
    """See `_seen`; or a new row and two different old ones in its places; or `None` if an index is
    out of bounds."""
    seen = np.full(m, -1)
    for old, new in side_by_side(index):
        if any(((v < 0) | (v >= size)).any() for v, size in ((old, n), (new, m))):
            return None
        before = seen[new]
        seen[new] = old
        for other in (before, seen[new]):
            wrong = np.flatnonzero((other >= 0) & (other != old))
            if len(wrong):
                k = wrong[0]
                return int(new[k]), int(other[k]), int(old[k])
    return seen


def _filled(pair: EquationPair, seen: np.ndarray, n: int) -> np.ndarray:
    """int64[m]: the old row of each new one. Rows that are picked nowhere hold the old rows that
    are picked nowhere, or further copies, so that old rows stay in order."""
    source = seen.copy()
    at = np.flatnonzero(seen >= 0)
    known = [(-1, -1), *zip(at.tolist(), seen[at].tolist(), strict=True), (len(seen), n)]
    for (a, old), (b, next_old) in itertools.pairwise(known):
        free, missing = b - a - 1, next_old - old - 1
        if missing > free or next_old < old:
            pair.fail(
                f"{_WHAT}: between its rows {a} and {b}, which are copies of old rows {old} and "
                f"{next_old}, old rows would be out of order, or have no place",
                axes=[x for x in pair.ins[0].axes if not find(x).fixed],
                hint=_HINT,
            )
        more = old + 1 + repeated(missing, free) if missing > 0 else max(old, 0)
        source[a + 1 : b] = more
    return source


RULES = {"gather": Rule(gather_axes, gather_scales)}
