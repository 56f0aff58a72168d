"""Matching the slots of two optimizer states by their fields, not by their positions.

An optimizer state is a tree of nodes: a node is an object whose fields are arrays, or trees with
the structure of the parameters. Adam's has `count`, `mu` and `nu`, anywhere in a chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trainkit.loop.saved.containers import FIELD, JsonPath

OPT_STATE, PARAMS = "opt_state", "params"


class Node(NamedTuple):
    """A node: its path, and (field, parameter) -> name of the leaf."""

    at: tuple[str, ...]
    leaves: dict[tuple[str, str], str]

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(field for field, _ in self.leaves)


def slots(
    theirs: Mapping[str, JsonPath], ours: Mapping[str, JsonPath], moved: Mapping[str, str]
) -> dict[str, str]:
    """Leaf of our optimizer state -> the corresponding leaf of theirs.

    `moved`: their name of a parameter -> our name, if these differ.

    A node corresponds to that at the same path, if it has the same fields; otherwise to a node with
    the same fields, in order, if both states have the same number of these.
    """
    states = [parts for name, parts in theirs.items() if in_optimizer(name)]
    if not any(kind == FIELD for parts in states for kind, _ in parts[1:]):
        # A state without classes, as from a file: match by names.
        return {name: name for name in ours if in_optimizer(name) and name in theirs}
    our_nodes, their_nodes = nodes(ours), nodes(theirs, moved)
    pairs = [
        (node, their_nodes[at])
        for at, node in our_nodes.items()
        if _same_fields(node, their_nodes.get(at))
    ]
    taken = {node.at for node, _ in pairs}
    free = [node for at, node in our_nodes.items() if at not in taken]
    rest = [node for at, node in their_nodes.items() if at not in taken]
    for fields in dict.fromkeys(node.fields for node in free):
        a, b = ([node for node in nodes if node.fields == fields] for nodes in (free, rest))
        pairs += zip(a, b, strict=True) if len(a) == len(b) else []
    return {
        name: other.leaves[slot]
        for node, other in pairs
        for slot, name in node.leaves.items()
        if slot in other.leaves
    }


def in_optimizer(name: str) -> bool:
    """Whether a leaf of a `TrainState` belongs to the optimizer state."""
    return name == OPT_STATE or name.startswith(f"{OPT_STATE}/")


def nodes(
    paths: Mapping[str, JsonPath], moved: Mapping[str, str] | None = None
) -> dict[tuple[str, ...], Node]:
    """Path -> node of an optimizer state, with the new names of parameters (`moved`)."""
    words = {name: tuple(str(value) for _, value in parts) for name, parts in paths.items()}
    params = {path[1:] for path in words.values() if path[0] == PARAMS}
    found: dict[tuple[str, ...], Node] = {}
    for name, parts in paths.items():
        path = words[name]
        if path[0] != OPT_STATE:
            continue
        at = _field(parts, path, params)
        node = found.setdefault(path[:at], Node(path[:at], {}))
        rest = "/".join(path[at + 1 :])
        field = path[at] if at < len(path) else ""
        node.leaves[field, (moved or {}).get(rest, rest)] = name
    return found


def _field(parts: JsonPath, path: tuple[str, ...], params: Iterable[tuple[str, ...]]) -> int:
    """The index of the field in a path: followed by a parameter's path, else the last field."""
    fields = [i for i, (kind, _) in enumerate(parts) if kind == FIELD and i > 0]
    for i in fields:
        if path[i + 1 :] in params:
            return i
    return fields[-1] if fields else len(path)


def _same_fields(one: Node, other: Node | None) -> bool:
    return other is not None and one.fields == other.fields
