"""Claims: their names, how they are given, and exceptions from laws; `implied` has Optax's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainkit._core import validation
from trainkit.laws.shape_factors import FACTORS

CLAIMS: dict[str, str] = {
    "oracle": "agrees with the reference of like=…",
    "element-wise": "every coordinate by itself",
    "odd": "update(−g) = −update(g)",
    "degree": "gradients k times as large give updates kⁿ times as large; the value is n",
    "permutation": "commutes with permutations of coordinates",
    "rotation": "commutes with rotations",
    "decoupled decay": "adds −η λ p; the value is η λ, or True to have it found",
    "clip": "it clips: unchanged within a bound, and cut to it; "
    '{"norm": "global"|"element"|"leaf rms", "bound": b}',
    "bounded": "no update is longer than a bound; the value is as for clip",
    "accumulation": "k micro-gradients are one step with their mean; "
    '{"k": k, "inner": tx, "weight": the name of the argument that weighs them}',
    "stacked": "layers kept in one leaf move as they do one by one; the value is a function from "
    "{expression: number of leading layer axes} to the rule",
    "guard": "a non-finite gradient changes nothing; the value is True, or how many of them in a "
    "row are ignored before one is let by",
    "commutes with": "chained before or after this transformation it is the same",
    "adapts": "neither stalls nor blows up under constant gradients",
    "descends": "lowers a convex loss",
    "zero first": "the first update for a zero gradient is zero",
    "differentiable": "the update has finite derivatives by the gradient",
    "line search": "every step lowers the loss that it is given by enough; "
    '{"decrease": c₁, "curvature": c₂ or None, "takes": "gradients"|"directions"}',
    "noise": "Gaussian; the value is its standard deviation, or a function of the step (from 1)",
    "per example": "takes one gradient per example, along a first axis, and gives one update",
    "matrices": "takes leaves of rank 2 only",
    "orthogonal": "f(U G V) = U f(G) V for orthogonal U and V",
    "transposes": "f(Gᵀ) = f(G)ᵀ, up to the shape factor",
    "shape factor": "the size of an update by its kernel's shape [in, out]; the value is a name, "
    "such as 'sqrt(max(1, out/in))', or a function of (in, out)",
    "singular values": "of the update of a square matrix; the value is (lowest, highest)",
    "factored": "the size of both sides from which the rule factors a matrix",
    "stale": "loses no gradient between two refreshes; the value is a function from the steps "
    "between them to the rule",
    "basis": "works in an orthonormal basis; the value is an expression for its place in the state",
    "hyperparameters": "each changes some update; the value is their factory, or their names",
    "scope": "which leaf moves with which rule; {expression: rule}, or (params, {…})",
    "fused": "{a leaf's name: how many matrices it is, side by side}",
    "map params": "optax.tree_map_params sees every parameter-shaped leaf",
    "growth": "growing its state, then stepping, is what the calculus of growth says",
    "start": "a schedule's value at count 0",
    "end": "a schedule's value at the largest count",
    "peak": "(count, value) of a schedule's largest value",
    "non-negative": "a schedule's values are never below 0",
    "non-increasing": "a schedule never rises",
    "non-decreasing": "a schedule never falls",
    "continuous": "a schedule has no jump; the value is the largest step between two counts",
}

# Claims that hold or do not hold, and have no value of their own.
FLAGS = {
    "element-wise", "odd", "permutation", "rotation", "adapts", "descends", "zero first",
    "differentiable", "orthogonal", "transposes", "per example", "matrices", "non-negative",
    "non-increasing", "non-decreasing",
}  # fmt: skip

NOISE = "its noise is drawn leaf by leaf and in their dtype: others draw other numbers"
# Claim -> the laws from which it excepts a rule.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("noise", law): NOISE
    for law in ("leaf names", "masked and partitioned", "bfloat16", "float16", "float64")
}


def excepted(claims: Mapping[str, Any], law: str) -> str | None:
    """The reason why a rule with these claims need not obey a law; `None` if it must."""
    return next((why for (c, name), why in EXCEPTIONS.items() if name == law and c in claims), None)


def read(claims: Any) -> dict[str, Any]:
    """Claims from a mapping, or an iterable of names; the value False withdraws a claim.

    Raises:
      ValueError: an unknown claim.
    """
    if claims is None:
        return {}
    if isinstance(claims, str):
        claims = [claims]
    if not isinstance(claims, Mapping):
        validation.listed("claims", claims, "['odd', 'element-wise']")
    named: dict[str, Any] = (
        dict(claims) if isinstance(claims, Mapping) else dict.fromkeys(_names(claims), True)
    )
    known = {_known(str(name)): value for name, value in named.items()}
    wrong = sorted(set(known) - set(CLAIMS))
    if wrong:
        shown = "\n".join(f"  {name}: {what}" for name, what in CLAIMS.items())
        hint = next(filter(None, (validation.near(name, CLAIMS) for name in wrong)), ".")
        raise ValueError(
            f"unknown claim {', '.join(map(repr, wrong))}{hint} Known claims:\n{shown}"
        )
    for name in FLAGS & set(known):
        validation.flag(f"claims[{name!r}]", known[name])
    factor = known.get("shape factor")
    if isinstance(factor, str):
        validation.choice("claims['shape factor']", factor, FACTORS, "check")
    return known


# Names of laws whose claim has another name.
OF_LAWS = {
    "descent": "descends",
    "constant gradients": "adapts",
    "wrapper order": "commutes with",
    "oracle in float64": "oracle",
    "oracle above the threshold": "factored",
    "orthogonal maps": "orthogonal",
    "transposition": "transposes",
    "staleness": "stale",
    "refreshed on time": "stale",
    "the basis is left again": "basis",
    "the basis stays orthogonal": "basis",
    "fused projections": "fused",
    "hyper-parameters": "hyperparameters",
}


def plain(name: str) -> str:
    """A name in a normal form: without case, spaces, hyphens and underscores."""
    return "".join(c for c in name.lower() if c.isalnum())


def _known(name: str) -> str:
    words = {plain(claim): claim for claim in CLAIMS} | {plain(k): v for k, v in OF_LAWS.items()}
    return words.get(plain(name), name)


def _names(claims: Iterable[Any]) -> list[str]:
    return [str(c) for c in claims]
