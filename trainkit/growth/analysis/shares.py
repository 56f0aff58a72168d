"""Shares: which parameters are split over the copies of which axes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from trainkit.growth.analysis.noise import tie_noise
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.axes.linear import Expr
from trainkit.growth.axes.solvers import choose
from trainkit.growth.errors import Conflict

Key = tuple[int, int, int]  # dimension, label, uid of a leaf
Roles = dict[tuple[int, int], set[int]]  # (parameter, dimension) -> uids of leaves


class Shares(NamedTuple):
    """The choice of splits.

    Attributes:
      chosen: for each parameter: (dimension, label, uid of a leaf) -> 1 if it is split, else 0.
      clean: uids of leaves for which every contraction has a split parameter.
    """

    chosen: list[dict[Key, int]]
    clean: set[int]


def choose_shares(scales: ScalePropagation) -> Shares | Conflict:
    """Chooses which parameters are split over copies.

    A contraction over unequal numbers of copies must have a split parameter. Others have one where
    possible, preferably a parameter that is contracted directly.

    Returns:
      The choice, or the conflict of a sum over copies for which no parameter can be split.
    """
    direct: dict[int, set[int]] = {}
    for c in scales.contractions:
        for origin in c.direct:
            direct.setdefault(c.leaf.uid, set()).add(origin)
    bits: list[tuple[Expr, float]] = []
    for i, split in enumerate(scales.param_split):
        for (_, _, uid), expr in split.items():
            if scales.factors[uid] == 0.0:  # there are no copies to split over
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
    tie_noise(scales, chosen, value)
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
    """Roles of grown leaves, by parameter axis.

    Returns:
      The leaves over which each parameter axis is contracted; those of them that are output axes
      too (tied); and the leaves over which two activations are contracted.
    """
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
                    # A contracted parameter is split, unless the axis is its output axis too.
                    tied.setdefault((i, key[0]), set()).add(c.leaf.uid)
    return reads, tied, paired
