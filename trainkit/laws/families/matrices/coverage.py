"""Laws of what a leaf is taken for: which half of a rule it gets, and how many matrices it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax

from trainkit._core.paths import named_leaves
from trainkit.laws.families.matrices import measures as M
from trainkit.laws.families.matrices.spectrum import shim
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import build, ordinary
from trainkit.laws.reproducers.literals import tree_code
from trainkit.laws.reproducers.programs import inner_code
from trainkit.laws.scopes import SAME, distance, leaves_of_all_ranks
from trainkit.laws.subject import Subject


@ordinary()
def scope(subject: Subject) -> Violation | None:
    """claims={"scope": {expression: the rule of such leaves}}, or (params, {…})"""
    claim = subject.claims["scope"]
    if claim is True:
        raise NotApplicable('say what: claims={"scope": {"matrix": muon, "": optax.adamw(1e-3)}}')
    params, rules = claim if isinstance(claim, tuple) else (leaves_of_all_ranks(), claim)
    for at, (name, leaf) in enumerate(named_leaves(params).items()):
        pattern = next((p for p in rules if re.search(p, name)), None)
        if pattern is None:
            return Violation(
                f"the claimed scope has no rule for {name!r}; give it one, \"\" for all others",
                {"leaf": name}, "assert '' in ['no rule for the leaf'], 'no rule for a leaf'",
            )  # fmt: skip
        gap = distance(shim(subject), rules[pattern], params, at)
        if gap <= SAME:
            continue
        others = [p for p, tx in rules.items() if p != pattern
                  and distance(shim(subject), tx, params, at) <= SAME]  # fmt: skip
        words = f"; it moves with the rule of {others[0]!r}" if others else ""
        return Violation(
            f"{name!r}, of shape {jax.numpy.shape(leaf)}, does not move with the rule of "
            f"{pattern!r} (it is {gap:.3g} of its length away){words}",
            {"leaf": name, "claimed": pattern, "gap": gap},
            inner_code(build(rules[pattern]), "other") + "\n" + M.program(
                M.leaf_apart, f"params = {tree_code(params)}",
                f"gap = leaf_apart(tx, other, params, {at})",
                f"assert gap <= {SAME}, f'{name} moves {{gap}} away from it'"))  # fmt: skip
    return None


@ordinary()
def fused(subject: Subject) -> Violation | None:
    """claims={"fused": {a leaf's name: number of matrices side by side}}; 1: one matrix"""
    claim = subject.claims["fused"]
    if not isinstance(claim, Mapping):
        raise NotApplicable('say which leaf is how many matrices: claims={"fused": {"qkv": 3}}')
    for name, parts in claim.items():
        for n in (parts,) if parts > 1 else (2, 3, 4):
            gap = M.joined(shim(subject), name, n)
            if (gap <= SAME) == (parts > 1):
                continue
            found, limit = ("one matrix", "<=") if parts > 1 else (f"{n} matrices", ">")
            return Violation(
                f"{n} matrices side by side in the leaf {name!r} move as {found} ({gap:.3g} of "
                f"their length from one by one); claimed is {parts}",
                {"leaf": name, "parts": parts, "gap": gap},
                M.program(M.joined, f"gap = joined(tx, {name!r}, {n})",
                          f"assert gap {limit} {SAME}, f'{{gap}} from one by one'"),
            )  # fmt: skip
    return None


LAWS = (
    Law("scope", "Every leaf moves with the rule that is claimed for it.", scope, claim="scope",
        tolerance="1e-4 of the update's length", why="the same formula in another program"),
    Law("fused projections", "Matrices side by side in one leaf are one matrix or several, as "
        "claimed.", fused, claim="fused", tolerance="1e-4 of the update's length",
        why="the same formula in another program"),
)  # fmt: skip
