"""Which parameters are split over the copies of which axes: what shares of copies they read."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.axes.linear import Expr
from trainkit.growth.axes.solvers import choose
from trainkit.growth.errors import Conflict

Key = tuple[int, int, int]  # dimension, label, uid of a leaf
Roles = dict[tuple[int, int], set[int]]  # (parameter, dimension) -> uids of leaves


class Shares(NamedTuple):
    """Attributes:
    chosen: for each parameter, which of its cells are split over the copies of a leaf.
    clean: leaves that are split wherever they are read.
    """

    chosen: list[dict[Key, int]]
    clean: set[int]


def choose_shares(scales: ScalePropagation) -> Shares | Conflict:
    """What is split: what reads an axis directly, if it may be; everywhere where copies are uneven.

    Returns:
      The choice, or the conflict of a sum over uneven copies that no parameter can be split for.
    """
    direct: dict[int, set[int]] = {}
    for c in scales.contractions:
        for origin in c.direct:
            direct.setdefault(c.leaf.uid, set()).add(origin)
    bits: list[tuple[Expr, float]] = []
    for i, split in enumerate(scales.param_split):
        for (_, _, uid), expr in split.items():
            if scales.factors[uid] == 0.0:  # nothing is copied: nothing to split
                scales.splits.require_zero(expr)
            bits.append((expr, 0.0 if i in direct.get(uid, ()) else -1.0))
    between = [
        (
            c.total,
            scales.factors[c.leaf.uid] is None,
            0.0 if scales.factors[c.leaf.uid] == 0 else 10.0,
        )
        for c in scales.contractions
    ]
    value, culprits = choose(scales.splits, bits, between)
    if value is None:
        first, *others = (scales.contractions[i] for i in culprits)
        conflict = scales.analysis.conflict(
            "no parameter can be split over the copies that are summed",
            "shares",
            (first.leaf,),
            first.pair,
        )
        return dataclasses.replace(conflict, others=tuple(c.leaf for c in others))
    chosen = [{key: value(expr) for key, expr in split.items()} for split in scales.param_split]
    totals: dict[int, list[int]] = {}
    for c in scales.contractions:
        totals.setdefault(c.leaf.uid, []).append(value(c.total))
    clean = {
        uid
        for uid, t in totals.items()
        if uid not in scales.order_sensitive and all(x == 1 for x in t)
    }
    return Shares(chosen, clean)


def roles(scales: ScalePropagation, chosen: list[dict[Key, int]]) -> tuple[Roles, Roles, set[int]]:
    """Which grown leaves each axis of each parameter is contracted over itself, over which of them
    it writes too, and over which two activations are contracted."""
    owner = {
        var: (i, key)
        for i, split in enumerate(scales.param_split)
        for key, expr in split.items()
        for var in expr
    }
    reads: Roles = {}
    tied: Roles = {}
    paired: set[int] = set()
    for c in scales.contractions:
        if not c.direct and c.pair.name == "dot_general":
            paired.add(c.leaf.uid)
        for expr in c.reads:
            for var in expr:
                if var not in owner:
                    continue
                i, key = owner[var]
                reads.setdefault((i, key[0]), set()).add(c.leaf.uid)
                if not chosen[i][key] and scales.factors[c.leaf.uid] != 0.0:
                    # What reads an axis takes the split, unless it is looked at elsewhere too.
                    tied.setdefault((i, key[0]), set()).add(c.leaf.uid)
    return reads, tied, paired
