"""Alignment of layers by the names of leaves: the origin of each layer of the big model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from trainkit.growth.errors import Conflict
from trainkit.growth.plan.data import Origin

Shapes = Mapping[str, tuple[int, ...]]
Origins = dict[str, Origin]
Alike = Literal["exact", "pattern", "rank", "ends"]  # in the order of trial; see `align`

# Where new layers that are identities go: spread between the old ones, or behind the last, which
# leaves every old layer at its number (and with the constants that depend on it).
PLACES = ("identity", "behind")

# "layers/3/w", "Dense_0/kernel", "h.11.attn.w" and "w2" all have a number at one of their keys.
_KEYS = re.compile(r"\d+|[^\d/]+/?|/")


class _Leaf(NamedTuple):
    name: str
    shape: tuple[int, ...]


def order(n: int, m: int, how: str) -> list[tuple[int, bool]]:
    """For each of m layers: the index of the old layer that it is or copies, and whether it is new.

    >>> order(2, 4, "stack")
    [(0, False), (1, False), (0, True), (1, True)]
    >>> order(2, 4, "interpose")
    [(0, False), (0, True), (1, False), (1, True)]
    >>> order(4, 6, "middle")
    [(0, False), (1, False), (2, False), (1, True), (2, True), (3, False)]
    >>> order(2, 4, "last")
    [(0, False), (1, False), (1, True), (1, True)]

    "behind" is the order of "last", for new layers that are identities.
    """
    assert n <= m, "growth only adds layers"
    if how == "stack":
        sources = [j % n for j in range(m)]
    elif how in ("interpose", "identity"):
        sources = [j * n // m for j in range(m)]
    elif how == "middle":
        extra, block = m - n, min(m - n, n)
        start = (n - block + 1) // 2
        again = [start + j % block for j in range(extra)] if block else []
        sources = [*range(start + block), *again, *range(start + block, n)]
    elif how in ("last", "behind"):
        sources = [min(j, n - 1) for j in range(m)]
    else:
        raise ValueError(
            f"how={how!r}: choose one of identity, stack, interpose, middle, last for depth"
        )
    seen: set[int] = set()
    result = []
    for source in sources:
        result.append((source, source in seen))
        seen.add(source)
    return result


def fewer(n: int, m: int, params: tuple[str, ...] = ()) -> Conflict:
    """The conflict of n layers that would become m < n layers, to which the leaves belong."""
    why = f"{n} layers cannot become {m}: growth only adds layers"
    return Conflict(why, "layers", params=params, hint="pass the model with fewer layers first")


def align(small: Shapes, big: Shapes, how: str, alike: Alike = "exact") -> Origins | Conflict:
    """The `Origin` of each leaf of the big model in the small one.

    Layers are siblings whose names differ in a number ("layer_0", "layers/3", "h.7.w", "w2"), or,
    without numbers, siblings with the same leaves, in the order of `big`. Consecutive layers that
    are alike form a run. Runs are matched in order, so that the output layer of "Dense_0, Dense_1,
    Dense_2" stays the output layer.

    Args:
      small, big: leaf name -> shape, in the order in which the programs use them.
      how: the order of new layers; see `order`.
      alike: when two layers are alike. "exact": equal shapes, for models of one width. "pattern":
        equal patterns of equal sizes. "rank": equal ranks. "ends": equal ranks, and the first and
        the last layer keep their position.

    Returns:
      The origins, or a conflict: the big model lacks a leaf of the small one, or has a new leaf
      outside its layers.

    >>> a = {"Dense_0/w": (3, 8), "Dense_1/w": (8, 2)}
    >>> b = {"Dense_0/w": (3, 8), "Dense_1/w": (8, 8), "Dense_2/w": (8, 2)}
    >>> align(a, b, "identity")["Dense_2/w"]
    Origin(leaf='Dense_1/w', new=False)
    """
    origins = _match(_nest(small), _nest(big), how, alike, False)
    return origins if isinstance(origins, Conflict) else {name: origins[name] for name in big}


def alignments(small: Shapes, big: Shapes, how: str) -> list[Origins] | Conflict:
    """All distinct alignments, the likeliest first; the first conflict if there is none."""
    for inner, outer, what in ((small, big, "big_params"), (big, small, "small_params")):
        tops = {name.split("/")[0] for name in outer}
        below = {name.partition("/")[2] for name in outer}
        if len(tops) == 1 and below == inner.keys():
            (top,) = tops
            return Conflict(
                f"{what} has the leaves of the other model below {top!r}",
                "layers",
                params=tuple(outer)[:4],
                hint=f"pass {what}[{top!r}], and a function that takes it",
            )
    result: list[Origins] = []
    refused: Conflict | None = None
    for alike in get_args(Alike):
        origins = align(small, big, how, alike)
        if isinstance(origins, Conflict):
            refused = refused or origins
        elif origins not in result:
            result.append(origins)
    return refused if not result and refused is not None else result


def _nest(shapes: Shapes) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, shape in shapes.items():
        node, (*parents, last) = tree, _KEYS.findall(name) or [""]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last + "."] = _Leaf(name, tuple(shape))  # "w" may be a leaf beside "w2"
    return tree


def _leaves(node: Any) -> list[str]:
    if isinstance(node, _Leaf):
        return [node.name]
    return [name for child in node.values() for name in _leaves(child)]


def _signature(node: Any, alike: Alike) -> Any:
    seen: dict[int, int] = {}

    def one(node: Any) -> Any:
        if isinstance(node, dict):
            return tuple((key, one(node[key])) for key in sorted(node))
        if alike == "exact":
            return node.shape
        if alike == "pattern":
            return tuple(seen.setdefault(size, len(seen)) for size in node.shape)
        return len(node.shape)

    return one(node)


def _match(small: Any, big: Any, how: str, alike: Alike, new: bool) -> Origins | Conflict:
    if isinstance(big, _Leaf) and isinstance(small, _Leaf):
        return {big.name: Origin(small.name, new)}
    if isinstance(big, _Leaf) or isinstance(small, _Leaf):
        why = f"{_leaves(big)[0]!r} is a leaf in one model and a tree in the other"
        return Conflict(why, "layers")
    origins: Origins = {}
    done: set[str] = set()
    for old_keys, new_keys in _rows(small, big):
        if old_keys == new_keys:
            continue
        done |= set(old_keys) | set(new_keys)
        layers = _layers(small, big, old_keys, new_keys, how, alike)
        if isinstance(layers, Conflict):
            return layers
        for key, source, again in layers:
            inner = _fresh(big[key])
            if source is not None:
                inner = _match(small[source], big[key], how, alike, new or again)
            if isinstance(inner, Conflict):
                return inner
            origins |= inner
    for key in small:
        if key not in done and key not in big:
            return _lost(_leaves(small[key]))
    for key, child in big.items():
        if key in done:
            continue
        if key not in small and how not in PLACES:
            return _no_layer(_leaves(child))
        inner = _match(small[key], child, how, alike, new) if key in small else _fresh(child)
        if isinstance(inner, Conflict):
            return inner
        origins |= inner
    return origins


def _fresh(node: Any) -> Origins | Conflict:
    """Origins of leaves without a counterpart in the small model."""
    return {leaf: Origin(None, True) for leaf in _leaves(node)}


def _lost(leaves: list[str]) -> Conflict:
    return Conflict(
        f"the deeper model has no {leaves[0]!r}",
        "layers",
        params=tuple(leaves[:4]),
        hint="the big model must have all leaves of the small one, in the same kinds of "
        "containers: check big_params",
    )


def _no_layer(leaves: list[str]) -> Conflict:
    return Conflict(
        f"{leaves[0]!r} is new, but does not belong to a sequence of layers",
        "layers",
        params=tuple(leaves[:4]),
        hint="number the layers (layer_0, layer_1, …) or keep them in a list",
    )


def _rows(small: dict[str, Any], big: dict[str, Any]) -> Iterator[tuple[list[str], list[str]]]:
    """Rows of sibling layers, as (keys in small, keys in big).

    The first row has the numbered siblings, in order. Further rows have siblings without a number
    that have the same leaves as a new one.
    """
    plain = lambda key: key.removesuffix(".")
    numbers = [
        sorted((k for k in node if plain(k).isdigit()), key=lambda k: int(plain(k)))
        for node in (small, big)
    ]
    yield numbers[0], numbers[1]
    done = set(numbers[1])
    for key, child in big.items():
        if key in small or key in done or isinstance(child, _Leaf):
            continue
        like = _signature(child, "rank")
        rows = [
            [k for k, c in node.items() if k not in done and _signature(c, "rank") == like]
            for node in (small, big)
        ]
        done |= set(rows[1])
        if rows[0]:
            yield rows[0], rows[1]


def _runs(node: dict[str, Any], keys: list[str], alike: Alike) -> list[tuple[Any, list[str]]]:
    runs: list[tuple[Any, list[str]]] = []
    for i, key in enumerate(keys):
        signature = _signature(node[key], alike)
        if alike == "ends" and i in (0, len(keys) - 1):
            signature = (i == 0, signature)
        if runs and runs[-1][0] == signature:
            runs[-1][1].append(key)
        else:
            runs.append((signature, [key]))
    return runs


def _layers(
    small: dict[str, Any],
    big: dict[str, Any],
    old_keys: list[str],
    new_keys: list[str],
    how: str,
    alike: Alike,
) -> list[tuple[str, str | None, bool]] | Conflict:
    """(big key, small key that it is or copies, whether it is new) for one row of siblings."""
    if len(new_keys) < len(old_keys):
        leaves = tuple(_leaves(small[key])[0] for key in old_keys[:6])
        return fewer(len(old_keys), len(new_keys), leaves)
    old_runs, new_runs = _runs(small, old_keys, alike), _runs(big, new_keys, alike)
    matcher = difflib.SequenceMatcher(
        None, [repr(s) for s, _ in old_runs], [repr(s) for s, _ in new_runs], autojunk=False
    )
    pair = {
        block.b + i: block.a + i
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    }
    lost = set(range(len(old_runs))) - set(pair.values())
    if lost:
        return Conflict(
            f"the layer of {_leaves(small[old_runs[min(lost)][1][0]])[0]!r} in the small model has "
            "no counterpart in the deeper one: no layer there has leaves of the same shapes",
            "layers",
            hint="grow in two steps: first width, then depth",
        )
    result: list[tuple[str, str | None, bool]] = []
    for j, (_, keys) in enumerate(new_runs):
        if j in pair:
            sources = old_runs[pair[j]][1]
            if len(keys) < len(sources):
                return fewer(len(sources), len(keys))
            for key, (source, fresh) in zip(keys, order(len(sources), len(keys), how), strict=True):
                result.append((key, sources[source], fresh))
        else:
            result.extend((key, None, True) for key in keys)
    return result
