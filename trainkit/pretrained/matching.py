"""Finds which tensors of a checkpoint are the leaves of a model, by name and shape.

Families are matched whole ("layers/*/q"), so that a mapping reads in a few lines, and says what the
tensors of new layers are called. Whatever can be read in two ways is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.validation import near
from trainkit.pretrained.layouts import Layout, layouts
from trainkit.pretrained.mapping import Entry, Names
from trainkit.pretrained.names import Family, families, likeness, words_of

Specs = Mapping[str, jax.ShapeDtypeStruct]
Families = dict[str, Family]


class Wishes(NamedTuple):
    """What the user says about a mapping.

    Attributes:
      names: family of leaves -> family of tensors, in the old checkpoint.
      new_names: the same in the new one, where it is not the same.
      transpose, as_is: families of tensors that are transposed, and that are not.
      ignore: families of tensors that the model does not have.
    """

    names: Mapping[str, str] = {}
    new_names: Mapping[str, str] = {}
    transpose: Sequence[str] = ()
    as_is: Sequence[str] = ()
    ignore: Sequence[str] = ()


def match(leaves: Specs, tensors: Specs, wishes: Wishes) -> Names:
    """The mapping between the leaves of a model and the tensors of a checkpoint.

    Raises:
      ValueError: no tensor fits a leaf, several do, a tensor is left over, or it is not clear
        whether a matrix is transposed. The message names the argument that decides.
    """
    return _Match(families(leaves), families(tensors), wishes).run()


class _Pair(NamedTuple):
    """A possible partner of a family of leaves."""

    tensor: str
    places: tuple[int, ...]
    options: list[Layout]


class _Match:
    def __init__(self, leaves: Families, tensors: Families, wishes: Wishes):
        self.leaves, self.wishes = leaves, wishes
        for option in ("ignore", "transpose", "as_is"):
            new = wishes.new_names.values() if option != "ignore" else ()
            check_known(option, getattr(wishes, option), [*tensors, *new], "tensor")
        check_known("names", wishes.names, leaves, "leaf of the small model")
        check_known("names", wishes.names.values(), tensors, "tensor")
        self.tensors = {n: family for n, family in tensors.items() if n not in wishes.ignore}
        self.found: dict[str, _Pair] = {}

    def run(self) -> Names:
        """All entries."""
        for leaf, tensor in self.wishes.names.items():
            self._by_name(leaf, tensor)
        while self._step():
            pass
        for leaf in self.leaves:
            if leaf not in self.found:
                raise ValueError(self._unmatched(leaf))
        used = {pair.tensor for pair in self.found.values()}
        left = [name for name in self.tensors if name not in used]
        if left:
            raise ValueError(
                f"{left[0]} {_shape(self.tensors[left[0]])} of the checkpoint is no leaf of the "
                f"small model{_more(left)}: check the sizes of the small model, or leave it out "
                f"with ignore={left[0]!r}"
            )
        entries = {leaf: self._entry(leaf) for leaf in self.leaves}
        return Names(entries)

    def _by_name(self, leaf: str, tensor: str) -> None:
        pair = self._pair(self.leaves[leaf], self.tensors[tensor])
        if pair is None:
            raise ValueError(
                f"names: {tensor} {_shape(self.tensors[tensor])} does not have the shape of {leaf} "
                f"{_shape(self.leaves[leaf])}, also not transposed or stacked"
            )
        self.found[leaf] = pair

    def _step(self) -> bool:
        """Matches what can be told apart by now; returns whether there was something."""
        taken = {pair.tensor for pair in self.found.values()}
        free = [family for name, family in self.tensors.items() if name not in taken]
        open_ = [family for name, family in self.leaves.items() if name not in self.found]
        pairs = {
            (a.name, b.name): pair
            for a in open_
            for b in free
            if (pair := self._pair(a, b)) is not None
        }
        scores = {names: likeness(*names) for names in pairs}
        best = {
            (a, b)
            for (a, b), score in scores.items()
            if score
            and all(score > s for (c, d), s in scores.items() if ((c == a) != (d == b)))
            and _told_apart(a, b, pairs)
        }
        if not best:  # one of a kind, whatever it is called
            count = lambda k, name: sum(names[k] == name for names in pairs)
            best = {(a, b) for a, b in pairs if count(0, a) == count(1, b) == 1}
        self.found |= {a: pairs[a, b] for a, b in best}
        return bool(best)

    def _pair(self, leaf: Family, tensor: Family) -> _Pair | None:
        """How tensors of a family can be leaves of a family, or `None`."""
        own = len(next(iter(leaf.members)))
        every = len(next(iter(tensor.members)))
        axes, shape = every - own, tuple(leaf.spec.shape)
        if axes < 0 or axes > len(shape):
            return None
        wanted = {(*n, *row) for n in leaf.members for row in np.ndindex(*shape[:axes])}
        for places in itertools.combinations(range(every), own):
            order = [*places, *(i for i in range(every) if i not in places)]
            if {tuple(numbers[i] for i in order) for numbers in tensor.members} == wanted:
                options = self._options(tensor, shape[axes:])
                return _Pair(tensor.name, places, options) if options else None
        return None

    def _options(self, tensor: Family, shape: tuple[int, ...]) -> list[Layout]:
        found = layouts(tuple(tensor.spec.shape), shape)
        if tensor.name in self.wishes.transpose:
            found = [layout for layout in found if layout.transposed]
        if tensor.name in self.wishes.as_is:
            found = [layout for layout in found if not layout.transposed]
        return found

    def _entry(self, leaf: str) -> Entry:
        pair = self.found[leaf]
        spec, wanted = self.tensors[pair.tensor].spec, self.leaves[leaf].spec
        if jnp.issubdtype(spec.dtype, jnp.inexact) != jnp.issubdtype(wanted.dtype, jnp.inexact):
            raise ValueError(
                f"{pair.tensor} is {spec.dtype} in the checkpoint, and {leaf} is {wanted.dtype} in "
                "the model: give a checkpoint that is not quantised"
            )
        options = pair.options
        if len({layout.transposed for layout in options}) > 1:
            seen = self._seen(leaf)
            if len(seen) != 1:
                raise ValueError(
                    f"{pair.tensor} {_shape(self.tensors[pair.tensor])} may be {leaf} or its "
                    f"transpose: say transpose={pair.tensor!r} or as_is={pair.tensor!r}"
                )
            options = [layout for layout in options if layout.transposed in seen]
        if len(options) > 1:
            raise ValueError(
                f"the axes of {leaf} {_shape(self.leaves[leaf])} may be merged into "
                f"{pair.tensor} {_shape(self.tensors[pair.tensor])} in several ways: use a small "
                "model whose sizes differ, or convert it"
            )
        return Entry(
            leaf, pair.tensor, pair.places, options[0], np.dtype(spec.dtype), len(spec.shape) > 1
        )

    def _seen(self, leaf: str) -> set[bool]:
        """Whether other matrices are transposed: those whose names end alike, or else all."""
        ends = lambda name: (_end(name), _end(self.found[name].tensor))
        decided = {
            name: {layout.transposed for layout in pair.options}
            for name, pair in self.found.items()
            if len(self.tensors[pair.tensor].spec.shape) > 1
            and ("embed" in words_of(name)) == ("embed" in words_of(leaf))
        }
        clear = {name: seen for name, seen in decided.items() if len(seen) == 1}
        alike = [seen for name, seen in clear.items() if ends(name) == ends(leaf)]
        return set().union(*(alike or clear.values()))

    def _unmatched(self, leaf: str) -> str:
        family = self.leaves[leaf]
        taken = {pair.tensor for pair in self.found.values()}
        free = [other for name, other in self.tensors.items() if name not in taken]
        fits = [other.name for other in free if self._pair(family, other)]
        if fits:
            return (
                f"several tensors may be {leaf} {_shape(family)}: {', '.join(fits[:4])}; say which "
                f"with names={{{leaf!r}: {fits[0]!r}}}"
                if len(fits) > 1
                else f"{fits[0]} may be {leaf} {_shape(family)} or another leaf; say which with "
                f"names={{{leaf!r}: {fits[0]!r}}}"
            )
        nearest = max(free, key=lambda other: likeness(leaf, other.name), default=None)
        if nearest is None:
            return f"no tensor of the checkpoint is left for {leaf} {_shape(family)}"
        return (
            f"no tensor of the checkpoint has shape and number of {leaf} {_shape(family)} in the "
            f"small model; the nearest name is {nearest.name} {_shape(nearest)}: check the sizes "
            "of the small model"
        )


def _told_apart(leaf: str, tensor: str, pairs: Iterable[tuple[str, str]]) -> bool:
    """Whether a leaf and a tensor share a word that no other possible partner of either has.

    That one name is longer than another is no evidence.
    """
    one, other = words_of(leaf), words_of(tensor)
    rivals = [b if a == leaf else a for a, b in pairs if (a == leaf) != (b == tensor)]
    return one == other or all((one & other) - words_of(rival) for rival in rivals)


def check_known(option: str, wanted: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuses a name that is not known; the nearest one is named."""
    known = list(known)
    for name in wanted:
        if name not in known:
            mend = near(name, known) or "."
            raise ValueError(f"{option}: {name!r} is no {what} (with * for numbers){mend}")


def _end(name: str) -> str:
    return name.replace("/", ".").split(".")[-1]


def _shape(family: Family) -> str:
    times = f"{len(family.members)} × " if len(family.members) > 1 else ""
    return f"({times}{'×'.join(map(str, family.spec.shape)) or 'scalar'})"


def _more(names: list[str]) -> str:
    return f", nor are {len(names) - 1} others" if len(names) > 1 else ""
