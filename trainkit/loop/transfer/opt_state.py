"""Which slots of one optimizer's state are those of another's: by fields, not by places.

An optimizer state is a tree of nodes: a node is an object whose fields hold arrays, or trees that
look like the parameters. Adam's has `count`, `mu` and `nu`, wherever it stands in a chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trainkit.loop.saved.containers import FIELD, Way

OPT_STATE, PARAMS = "opt_state", "params"


class Node(NamedTuple):
    """A node: where it stands, and the names of its leaves by (field, leaf of the parameters)."""

    at: tuple[str, ...]
    leaves: dict[tuple[str, str], str]

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(field for field, _ in self.leaves)


def slots(
    theirs: Mapping[str, Way], ours: Mapping[str, Way], moved: Mapping[str, str]
) -> dict[str, str]:
    """Leaf of our optimizer state -> the leaf of theirs that it goes on from.

    `moved`: their name of a parameter -> ours, where it is another one.

    A node goes on from that at the same place, where it has the same fields; else from the node
    with these fields, in order, where there are as many of them on both sides.
    """
    states = [way for name, way in theirs.items() if in_optimizer(name)]
    if not any(kind == FIELD for way in states for kind, _ in way[1:]):
        # A state without classes, as one that came from a file: names are all that it has.
        return {name: name for name in ours if in_optimizer(name) and name in theirs}
    here, there = nodes(ours), nodes(theirs, moved)
    pairs = [(node, there[at]) for at, node in here.items() if _alike(node, there.get(at))]
    taken = {node.at for node, _ in pairs}
    free = [node for at, node in here.items() if at not in taken]
    rest = [node for at, node in there.items() if at not in taken]
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
    """Whether a leaf is one of an optimizer state in a `TrainState`."""
    return name == OPT_STATE or name.startswith(f"{OPT_STATE}/")


def nodes(
    ways: Mapping[str, Way], moved: Mapping[str, str] | None = None
) -> dict[tuple[str, ...], Node]:
    """The nodes of an optimizer state by their places; leaves by new names of parameters."""
    words = {name: tuple(str(value) for _, value in way) for name, way in ways.items()}
    params = {path[1:] for path in words.values() if path[0] == PARAMS}
    found: dict[tuple[str, ...], Node] = {}
    for name, way in ways.items():
        path = words[name]
        if path[0] != OPT_STATE:
            continue
        at = _field(way, path, params)
        node = found.setdefault(path[:at], Node(path[:at], {}))
        rest = "/".join(path[at + 1 :])
        field = path[at] if at < len(path) else ""
        node.leaves[field, (moved or {}).get(rest, rest)] = name
    return found


def _field(way: Way, path: tuple[str, ...], params: Iterable[tuple[str, ...]]) -> int:
    """Where the field stands: what follows is a parameter's path; else it is the last there is."""
    fields = [i for i, (kind, _) in enumerate(way) if kind == FIELD and i > 0]
    for i in fields:
        if path[i + 1 :] in params:
            return i
    return fields[-1] if fields else len(path)


def _alike(one: Node, other: Node | None) -> bool:
    return other is not None and one.fields == other.fields
