"""Axes whose units never meet: rows of results, and of tables that are only looked up.

Nothing reduces or contracts such an axis, and nothing else lets one of its units see another. What
new units that copy nothing hold then enters new entries of results alone, and may be anything.
"""

from __future__ import annotations

from collections.abc import Collection

from trainkit.growth.analysis.joint_program import EquationPair, JointProgram, all_pairs
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.ir.primitives import summed, traits


def separate(joint: JointProgram, leaves: Collection[int]) -> frozenset[int]:
    """Those of `leaves` (uids) whose units never meet."""
    met = {uid for pair in all_pairs(joint.pairs) for uid in _meeting(pair)}
    return frozenset(leaves) - met


def _meeting(pair: EquationPair) -> set[int]:
    """The leaves whose units may meet in an equation."""
    known = traits(pair)
    if known.elementwise or known.identity or known.move or known.call:
        return set()
    contracts = pair.name in ("reduce_sum", "reduce_max", "reduce_min", "dot_general")
    return {
        leaf.uid
        for i, v in enumerate(pair.ins)
        for d, axis in enumerate(v.axes)
        if not contracts or d in summed(pair, i)
        for leaf in grown_leaves(axis)
    }
