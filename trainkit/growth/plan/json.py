"""Plans as JSON text. Version 2 is written; versions 1 and 2 are read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax

from trainkit._core import validation
from trainkit.growth.plan.data import AxisPlan, GrownAxis, Layer, LeafPlan, PlanData

VERSION = 2
# In version 1 these were fields of a leaf, with one entry for each axis.
_OF_AXES = ("segments", "splits", "reads", "tied", "fresh", "means", "ordered")


def to_json(plan: PlanData) -> str:
    """A plan as JSON text."""
    trees = None if plan.trees is None else [_containers(tree) for tree in plan.trees]
    data = {
        "version": VERSION,
        "leaves": [dataclasses.asdict(leaf) for leaf in plan.leaves],
        "grown_axes": [dataclasses.asdict(axis) for axis in plan.grown_axes],
        "equations": plan.equations,
        "depth": plan.depth,
        "inputs": [dataclasses.asdict(leaf) for leaf in plan.inputs],
        "results": [dataclasses.asdict(leaf) for leaf in plan.results],
        "symbols": plan.symbols,
        "zero_inputs": plan.zero_inputs,
        "trees": trees,
    }
    return json.dumps(data)


def from_json(text: str) -> PlanData:
    """The plan that `to_json` wrote, in this version or an earlier one.

    Raises:
      ValueError: the text is not such a plan.
    """
    validation.text("text", text, hint="give what Plan.to_json gave")
    try:
        data = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the text is not a growth plan (see Plan.to_json): {error}") from error
    version = data.get("version") if isinstance(data, dict) else None
    grown = {1: "atoms", 2: "grown_axes"}.get(version or 0, "")
    if any(name not in data for name in ("leaves", grown, "equations")) if grown else True:
        raise ValueError("the text is not a growth plan of version 1 or 2 (see Plan.to_json)")
    leaves = [_tuples(leaf) for leaf in data["leaves"]]
    if version == 1:
        leaves = [_of_version_1(leaf) for leaf in leaves]
    trees = None if data.get("trees") is None else [_tree(x) for x in data["trees"]]
    return PlanData(
        leaves=tuple(map(_leaf, leaves)),
        grown_axes=tuple(GrownAxis(**_tuples(axis)) for axis in data[grown]),
        equations=data["equations"],
        depth=data.get("depth"),
        inputs=tuple(_leaf(_tuples(leaf)) for leaf in data.get("inputs", ())),
        results=tuple(_leaf(_tuples(leaf)) for leaf in data.get("results", ())),
        symbols=_tuples(data.get("symbols", [])),
        zero_inputs=data.get("zero_inputs", False),
        trees=None if trees is None else (trees[0], trees[1]),
    )


def _leaf(data: dict[str, Any]) -> LeafPlan:
    axes = tuple(None if axis is None else AxisPlan(**axis) for axis in data.pop("axes"))
    layer = data.pop("layer", None)
    return LeafPlan(**data, axes=axes, layer=None if layer is None else Layer(**layer))


def _of_version_1(leaf: dict[str, Any]) -> dict[str, Any]:
    """Converts a leaf of version 1 to version 2."""
    columns = {name: leaf.pop(name, ()) for name in _OF_AXES}
    leaf["axes"] = tuple(
        None
        if structure is None
        else {"structure": structure, **{k: v[d] for k, v in columns.items() if v}}
        for d, structure in enumerate(leaf["axes"])
    )
    return leaf


def _containers(tree: Any) -> Any:
    """A tree structure of dicts, lists and tuples as JSON; `None` for other containers."""
    if tree is None:
        return None

    def one(node: Any) -> Any:
        if isinstance(node, int):
            return 0
        if node is None:
            return {"none": []}
        if type(node) is dict and all(isinstance(key, str) for key in node):
            return {"dict": [[key, one(child)] for key, child in node.items()]}
        if type(node) in (list, tuple):
            return {type(node).__name__: [one(child) for child in node]}
        raise TypeError

    try:
        return one(jax.tree.unflatten(tree, range(tree.num_leaves)))
    except TypeError:
        return None


def _tree(found: Any) -> Any:
    """The structure that `_containers` wrote."""

    def one(node: Any) -> Any:
        if node == 0:
            return 0
        ((kind, children),) = node.items()
        if kind == "none":
            return None
        if kind == "dict":
            return {key: one(child) for key, child in children}
        return (list if kind == "list" else tuple)(one(child) for child in children)

    return None if found is None else jax.tree.structure(one(found))


def _tuples(x: Any) -> Any:
    """Converts the lists of JSON back to tuples."""
    if isinstance(x, dict):
        return {k: _tuples(v) for k, v in x.items()}
    return tuple(_tuples(v) for v in x) if isinstance(x, list) else x
