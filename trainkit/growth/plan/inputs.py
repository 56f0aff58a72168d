"""New inputs: how the arguments of the big model extend those of the small one."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from trainkit._core import validation
from trainkit._core.paths import path_name
from trainkit.growth.errors import GrowthError

PyTree = Any
Places = tuple[int, ...]
RESULT = "result"  # names of results begin with it


@dataclasses.dataclass(frozen=True)
class NewInputs:
    """What the big model is called with, if it has more inputs than the small one.

    Inputs are named as the models are called: "0" is the first argument after the parameters, and
    "1/goal" the entry "goal" of the second. Results are named "result", or "result['logits']".

    Attributes:
      example: the arguments of the big model after its parameters, arrays or shapes: an array, or a
        tuple of arguments. `None`: those of the small model, whose symbols alone get new numbers.
      places: (name of an input or result, axis) -> the new index of each old entry along that axis.
        The default is that the old entries come first. The map must be injective; it may
        interleave old and new entries and change their order.
      symbols: name of an input of whole numbers -> the new number of each old one (a vocabulary).
        The tables that it is looked up in grow in the same way. The old numbers are assumed to be
        in bounds, that is 0 ≤ v < n, and so never negative.
      new: what new entries hold where the old inputs are used. "any": anything finite, so that
        they are read with 0, and the weights that read them learn from there. "zero": 0, so that
        the weights that read them are free: they hold the mean of the old ones.

    >>> NewInputs(np.zeros((8, 4)), places={("0", 1): (0, 1, 3)}).new
    'any'
    """

    example: Any = None
    places: Mapping[tuple[str, int], Sequence[int]] = dataclasses.field(
        default_factory=lambda: MappingProxyType({})
    )
    symbols: Mapping[str, Sequence[int]] = dataclasses.field(
        default_factory=lambda: MappingProxyType({})
    )
    new: Literal["any", "zero"] = "any"

    def __post_init__(self) -> None:
        validation.choice("new", self.new, ("any", "zero"), "NewInputs")
        validation.mapping("symbols", self.symbols, "{'0': [0, 1, 3]}", "NewInputs")
        if not isinstance(self.places, Mapping):
            raise TypeError(
                f"NewInputs: places={self.places!r} must be a mapping such as "
                "{('0', -1): [0, 1, 3]}: (name of an input, axis) -> new index of each old entry"
            )
        for key, found in self.places.items():
            pair = isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str)
            if not pair or not isinstance(key[1], numbers.Integral):
                raise TypeError(
                    f"NewInputs: the key {key!r} of places must be (name of an input, axis), as in "
                    "('0', -1)"
                )
            _integers(f"places[{key!r}]", found)
        for name, found in self.symbols.items():
            _integers(f"symbols[{name!r}]", found)
            if len(found) and min(found) < 0:
                raise ValueError(f"NewInputs: symbols[{name!r}] has the negative {min(found)}")


class GrownInput(NamedTuple):
    """One input of both models.

    Attributes:
      name, dtype: its name and its dtype.
      small, big: its shapes.
      places: for each axis that grows, the new index of each old entry.
      symbols: the new number of each old one; `None` if numbers stay.
      zero: whether new entries are 0 (otherwise anything).
    """

    name: str
    dtype: Any
    small: tuple[int, ...]
    big: tuple[int, ...]
    places: Mapping[int, Places] = MappingProxyType({})
    symbols: Places | None = None
    zero: bool = False


def grown_inputs(small: PyTree, big: PyTree, new: NewInputs | None) -> list[GrownInput]:
    """The inputs of both models.

    Args:
      small, big: tuples of arguments, shapes.
      new: the user's words; `None`: both are called with the same.

    Raises:
      GrowthError: the arguments differ in more than sizes, or an input would shrink.
      ValueError: a map names no input, or is no map of its axis.
    """
    new = NewInputs() if new is None else new
    trees: Any = jax.tree.structure(small), jax.tree.structure(big)
    if trees[0] != trees[1]:
        raise GrowthError(
            f"inputs: the small model is called with {_names(small)}, and the big one with "
            f"{_names(big)}",
            hint="call both with the same arguments. An input that the small model does not have: "
            "lambda params, x, y: small_fn(params, x), with its shape in the example of both",
        )
    named = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(small)]
    _check_names(new, [name for name, _ in named])
    return [_one(name, a, b, new) for (name, a), b in zip(named, jax.tree.leaves(big), strict=True)]


def places_of(
    name: str, small: tuple[int, ...], big: tuple[int, ...], new: NewInputs
) -> dict[int, Places]:
    """Axis -> the new index of each old entry, for the axes in `new.places`.

    Raises:
      ValueError: a map is no map of its axis.
    """
    found: dict[int, Places] = {}
    for (key, axis), places in new.places.items():
        if key != name:
            continue
        what = f"NewInputs: places[{(key, axis)!r}]"
        if not -len(small) <= axis < len(small):
            raise ValueError(f"{what}: input {name} has {len(small)} axes; there is no axis {axis}")
        d = int(axis) % len(small)
        n, m = small[d], big[d]
        _check_map(what, places, n, m, f"axis {d} of input {name}")
        if d in found:
            raise ValueError(f"{what}: axis {d} of {name} has two maps")
        if n == m and tuple(places) != tuple(range(n)):
            raise ValueError(
                f"{what}: axis {d} of input {name} has {n} entries in both models. Nothing grows; "
                "change the order of the entries in the function of the big model"
            )
        if n != m:
            found[d] = tuple(int(place) for place in places)
    return found


def _one(name: str, small: Any, big: Any, new: NewInputs) -> GrownInput:
    a, b = tuple(small.shape), tuple(big.shape)
    if small.dtype != big.dtype or len(a) != len(b):
        raise GrowthError(
            f"input {name} is {small.dtype}{list(a)} in the small and {big.dtype}{list(b)} in the "
            "big model",
            hint="call both models with arrays of one dtype and one number of axes",
        )
    for d, (n, m) in enumerate(zip(a, b, strict=True)):
        if m < n or n == 0 != m:
            raise GrowthError(
                f"axis {d} of input {name} {'would shrink' if n else 'has no entries'}: shapes "
                f"{a} → {b}",
                axis=f"{n} → {m}",
                hint="give the big model all inputs of the small one" if n else "start from one",
            )
    places = {d: tuple(range(n)) for d, (n, m) in enumerate(zip(a, b, strict=True)) if n != m}
    symbols = new.symbols.get(name)
    if symbols is not None:
        if not jax.dtypes.issubdtype(small.dtype, np.integer):
            raise ValueError(f"NewInputs: symbols[{name!r}] maps whole numbers; it is {b}")
        _check_map(f"NewInputs: symbols[{name!r}]", symbols, len(symbols), None, name)
        symbols = tuple(int(symbol) for symbol in symbols)
    places |= places_of(name, a, b, new)
    return GrownInput(name, small.dtype, a, b, places, symbols, new.new == "zero")


def _check_map(what: str, found: Sequence[int], n: int, m: int | None, where: str) -> None:
    """Raises a ValueError unless a map from n entries into m is total, in range and injective."""
    if len(found) != n:
        raise ValueError(
            f"{what} has {len(found)} places, but {where} has {n} old entries: give the new index "
            "of each"
        )
    outside = [place for place in found if place < 0 or (m is not None and place >= m)]
    if outside:
        raise ValueError(
            f"{what} has the place {outside[0]}, but {where} has the new indices 0 to "
            f"{(m or 0) - 1}"
        )
    first: dict[int, int] = {}
    for i, place in enumerate(found):
        if first.setdefault(int(place), i) != i:
            raise ValueError(
                f"{what} is not injective: old entries {first[int(place)]} and {i} go to {place}. "
                "Each old entry needs a place of its own"
            )


def _check_names(new: NewInputs, names: Sequence[str]) -> None:
    asked = [("places", key[0]) for key in new.places if not key[0].startswith(RESULT)]
    for what, name in [*asked, *(("symbols", name) for name in new.symbols)]:
        if name not in names:
            some = ", ".join(repr(each) for each in names)
            raise ValueError(
                f"NewInputs: {what} names the input {name!r}{validation.near(name, names) or '.'} "
                f"The inputs are {some}; results begin with {RESULT!r}"
            )


def _integers(what: str, found: Any) -> None:
    whole = isinstance(found, Sequence | np.ndarray) and not isinstance(found, str | bytes)
    if not whole or not all(isinstance(place, numbers.Integral) for place in found):
        raise TypeError(
            f"NewInputs: {what} must be whole numbers, the new index of each old entry, as in "
            "[0, 1, 3]"
        )


def _names(args: PyTree) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(args)
    return ", ".join(f"{path_name(path)}: {list(leaf.shape)}" for path, leaf in leaves) or "nothing"
