"""Paths of leaves as JSON, and trees rebuilt from such paths without a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax.tree_util import DictKey, GetAttrKey

PyTree = Any
# A path in JSON is a list of [kind, value], where kind is one of these.
FIELD, KEY, PLACE = "field", "key", "at"
JsonPath = list[list[Any]]


def to_json(path: tuple[Any, ...]) -> JsonPath:
    """The path of a leaf: fields of classes, keys of dicts, indices of lists and tuples.

    >>> import jax
    >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"layers": [{"w": 1.0}]})
    >>> to_json(path)
    [['key', 'layers'], ['at', 0], ['key', 'w']]
    """
    return [_part(part) for part in path]


def nested(leaves: Mapping[str, Any], paths: Mapping[str, JsonPath]) -> PyTree:
    """Nested dicts and lists with these leaves; objects become dicts of their fields.

    >>> nested({"a": 1, "b": 2}, {"a": [["key", "x"], ["at", 0]], "b": [["key", "x"], ["at", 1]]})
    {'x': [1, 2]}
    """
    if [*map(len, map(paths.__getitem__, leaves))] == [0]:
        return next(iter(leaves.values()))
    below: dict[Any, dict[str, JsonPath]] = {}
    for name in leaves:
        (kind, value), *rest = paths[name]
        below.setdefault((kind, value), {})[name] = rest
    made = {
        part: nested({name: leaves[name] for name in inside}, inside)
        for part, inside in below.items()
    }
    if [*made] == [(PLACE, i) for i in range(len(made))]:
        return list(made.values())
    # An incomplete list becomes a dict with its indices as keys.
    return {str(value) if kind == PLACE else value: tree for (kind, value), tree in made.items()}


def renamed_path(name: str, parts: JsonPath) -> JsonPath:
    """The path of a renamed leaf: keeps the end of the old path if the names end alike.

    >>> renamed_path("new/0/w", [["key", "old"], ["at", 0], ["key", "w"]])
    [['key', 'new'], ['at', 0], ['key', 'w']]
    """
    for start in range(len(parts)):
        end = "/".join(str(value) for _, value in parts[start:])
        if name == end or name.endswith(f"/{end}"):
            before = name[: len(name) - len(end)].strip("/")
            return [[KEY, part] for part in before.split("/") if part] + parts[start:]
    return [[KEY, part] for part in name.split("/")]


def _part(part: Any) -> list[Any]:
    if isinstance(part, GetAttrKey):
        return [FIELD, part.name]
    if isinstance(part, DictKey):
        return [KEY, part.key if isinstance(part.key, str | int) else str(part.key)]
    return [PLACE, getattr(part, "idx", getattr(part, "key", None))]
