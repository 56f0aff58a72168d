"""Which layer of the deeper model is which of the shallower one, told from the names of leaves."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from trainkit.growth.errors import GrowthError
from trainkit.growth.moments import Origin

Shapes = Mapping[str, tuple[int, ...]]
_NUMBERED = re.compile(r"^(.*?)(\d+)$")


def order(n: int, m: int, how: str) -> list[tuple[int, bool]]:
    """For each of m layers, which of the n old ones it is or copies, and whether it is new.

    >>> order(2, 4, "stack")
    [(0, False), (1, False), (0, True), (1, True)]
    >>> order(2, 4, "interpose")
    [(0, False), (0, True), (1, False), (1, True)]
    >>> order(4, 6, "middle")
    [(0, False), (1, False), (2, False), (1, True), (2, True), (3, False)]
    >>> order(2, 4, "last")
    [(0, False), (1, False), (1, True), (1, True)]
    """
    if m < n:
        raise GrowthError(f"{n} layers cannot become {m}: growth only adds layers")
    if how == "stack":
        sources = [j % n for j in range(m)]
    elif how in ("interpose", "identity"):
        sources = [j * n // m for j in range(m)]
    elif how == "middle":
        extra, block = m - n, min(m - n, n)
        start = (n - block + 1) // 2
        again = [start + j % block for j in range(extra)] if block else []
        sources = [*range(start + block), *again, *range(start + block, n)]
    elif how == "last":
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


def align(small: Shapes, big: Shapes, how: str) -> dict[str, Origin]:
    """For each leaf of the deeper model of the same widths: its `Origin` in the shallower one.

    Layers are told by numbers at the end of a key ("layer_0", "layers/3", "block7"). Of numbered
    siblings, those with leaves of the same shapes form a run, and runs are matched in order, so
    that the output layer of "Dense_0, Dense_1, Dense_2" stays the output layer.

    Raises:
      GrowthError: the deeper model lacks a leaf of the shallower, or has one outside its layers.

    >>> a = {"Dense_0/w": (3, 8), "Dense_1/w": (8, 2)}
    >>> b = {"Dense_0/w": (3, 8), "Dense_1/w": (8, 8), "Dense_2/w": (8, 2)}
    >>> align(a, b, "identity")["Dense_2/w"]
    Origin(leaf='Dense_1/w', new=False)
    """
    origin: dict[str, Origin] = {}
    _match(_nest(small), _nest(big), "", "", how, False, origin)
    return origin


def _nest(shapes: Shapes) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, shape in shapes.items():
        node, (*parents, last) = tree, name.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = tuple(shape)
    return tree


def _names(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [n for key, child in node.items() for n in _names(child, _join(prefix, key))]


def _join(prefix: str, key: str) -> str:
    return f"{prefix}/{key}" if prefix else key


def _signature(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return tuple(sorted((key, _signature(child)) for key, child in node.items()))


def _match(
    small: Any, big: Any, at: str, big_at: str, how: str, new: bool, out: dict[str, Origin]
) -> None:
    if not isinstance(big, dict) or not isinstance(small, dict):
        if isinstance(big, dict) or isinstance(small, dict):
            raise GrowthError(f"{big_at!r} is a leaf in one model and a tree in the other")
        out[big_at] = Origin(at, new)
        return
    done: set[str] = set()
    for stem in dict.fromkeys(m.group(1) for key in big if (m := _NUMBERED.match(key))):
        old_keys, new_keys = (_numbered(node, stem) for node in (small, big))
        if old_keys == new_keys:
            continue
        done |= set(old_keys) | set(new_keys)
        for key, source, fresh in _layers(small, big, old_keys, new_keys, how, big_at):
            name = _join(big_at, key)
            if source is None:
                out.update({leaf: Origin(None, True) for leaf in _names(big[key], name)})
            else:
                _match(small[source], big[key], _join(at, source), name, how, new or fresh, out)
    for key in small:
        if key not in done and key not in big:
            raise GrowthError(
                f"the deeper model has no {_join(big_at, key)!r}",
                params=_names(small[key], _join(at, key))[:4],
            )
    for key, child in big.items():
        if key in done:
            continue
        if key not in small:
            raise GrowthError(
                f"{_join(big_at, key)!r} is new, but is no numbered layer among others",
                params=_names(child, _join(big_at, key))[:4],
                mend="number the layers (layer_0, layer_1, …) or keep them in a list",
            )
        _match(small[key], child, _join(at, key), _join(big_at, key), how, new, out)


def _numbered(node: dict[str, Any], stem: str) -> list[str]:
    keys = [key for key in node if (m := _NUMBERED.match(key)) and m.group(1) == stem]
    return sorted(keys, key=lambda key: int(key[len(stem) :]))


def _runs(node: dict[str, Any], keys: list[str]) -> list[tuple[Any, list[str]]]:
    runs: list[tuple[Any, list[str]]] = []
    for key in keys:
        signature = _signature(node[key])
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
    where: str,
) -> list[tuple[str, str | None, bool]]:
    """(new key, the old key that it is or copies, whether it is new), for one row of siblings."""
    old_runs, new_runs = _runs(small, old_keys), _runs(big, new_keys)
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
        keys = old_runs[min(lost)][1]
        raise GrowthError(
            f"layer {_join(where, keys[0])!r} of the small model has no place in the deeper one: "
            f"no layer there has leaves of the same shapes",
            mend="grow width and depth one after the other, or give middle=, the model of the "
            "small widths and the big depth",
        )
    result: list[tuple[str, str | None, bool]] = []
    for j, (_, keys) in enumerate(new_runs):
        if j in pair:
            sources = old_runs[pair[j]][1]
            for key, (source, fresh) in zip(keys, order(len(sources), len(keys), how), strict=True):
                result.append((key, sources[source], fresh))
        else:
            result.extend((key, None, True) for key in keys)
    return result
