"""What is recorded of a plan, in words of its own: they stay when the fields of `Plan` change.

This is the only file of the guard that knows the attributes of a plan. When they change, adapt it
so that the hashes stay equal.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from trainkit.growth import GrowthError, Plan
from trainkit.growth.plan.data import Layer, LeafPlan

# "file:line (function)" and addresses differ between machines, and when a test is edited.
PLACE = re.compile(r"\S+\.py:\d+ \([^)]*\)|0x[0-9a-f]+")


def short(x: Any) -> str:
    """Six hex digits that stand for a JSON value: one change in 16 million is missed."""
    text = json.dumps(x, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def facts(plan: Plan) -> dict[str, Any]:
    """Leaf path -> what the plan says of the leaf, one record an axis."""
    found = {}
    for leaf in plan.leaves:
        found[leaf.path] = {
            "shapes": [list(leaf.small), list(leaf.big)],
            "dtype": leaf.dtype,
            "weight": _number(leaf.weight),
            "shift": _number(leaf.shift),
            "guess": leaf.calibrated,
            "layer": leaf.layer and _layer(leaf.layer),
            "axes": [_axis(leaf, d) for d in range(len(leaf.big))],
        }
    return found


def _axis(leaf: LeafPlan, d: int) -> dict[str, Any]:
    axis = leaf.axes[d]
    factors = axis.segments if axis else ()
    return {
        "structure": axis and _lists(axis.structure),
        # No factors, and factors that are all 1, say the same.
        "factors": [] if set(factors) == {1.0} else [_number(x) for x in factors],
        "splits": [sorted(segment) for segment in axis.splits] if axis else [],
        **{
            word: sorted(getattr(axis, word)) if axis else []
            for word in ("reads", "tied", "fresh", "means", "ordered")
        },
    }


def _layer(layer: Layer) -> list[Any]:
    return [layer.source, layer.new, layer.becomes, layer.axis, _lists(layer.rows)]


def whole(plan: Plan) -> dict[str, Any]:
    """What the plan says beside its leaves: the independent axes that grow, and how it was made."""
    axes = [
        [a.small, a.big, a.layout, a.clean, a.paired, a.visible, a.fill] for a in plan.grown_axes
    ]
    return {"axes": axes, "depth": plan.depth, "equations": plan.equations}


def maps(plan: Plan) -> dict[str, Any]:
    """Leaf path -> the map and the factors of an even growth."""
    found = {}
    for path, leaf in plan.realise(None, "even").leaves.items():
        found[path] = {
            "axes": [
                axis
                and [
                    axis.source.tolist(),
                    [_number(x) for x in axis.weight],
                    [_number(x) for x in axis.gradient],
                    axis.fill,
                ]
                for axis in leaf.axes
            ],
            "weight": _number(leaf.weight),
            "gradient": _number(leaf.gradient),
            "shift": _number(leaf.shift),
            "exact": bool(leaf.exact_gradient),
        }
    return found


def refusal(error: GrowthError) -> dict[str, Any]:
    """What a refusal says, without the places in the code."""
    return {
        "axis": error.axis,
        "params": list(error.params),
        "primitive": error.primitive,
        "message": PLACE.sub("…", str(error)),
    }


def _number(x: float) -> str:
    return f"{float(x) + 0.0:.12g}"  # + 0.0: no −0


def _lists(x: Any) -> Any:
    return [_lists(y) for y in x] if isinstance(x, tuple) else x
