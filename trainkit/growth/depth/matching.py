"""Alignment of layers by what the programs compute, where an alignment by names is only a wish.

The big program is followed from its inputs. An equation that the small program has too, with the
same operands, belongs to an old layer, and its parameters are those of the small one. Any other
parameters belong to new layers, whose results may be any of their operands. So every value of the
big program is known as one or more values of the small one. Where a parameter may be one of several
old ones, or new, what is wished is taken, or else the first, and the next one if that leads to no
end.

What is found is a guess: whether the new layers are identities is proved afterwards.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from trainkit.growth.depth.alignment import Origins
from trainkit.growth.depth.flat_model import FlatModel, modules, without_numbers
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Equation

VALUES = 6  # the values of the small program that a value may be, at most
EFFORT = 6  # equations that are looked at, in lengths of the big program
# What equations of equal layers share whatever the widths are.
_PARAMS = {"axes", "dimension", "dimension_numbers", "lhs_dilation", "permutation", "rhs_dilation",
           "window_strides"}  # fmt: skip
_BODIES = {"jaxpr", "branches", "body_jaxpr", "cond_jaxpr"}
_PASSING = {"add", "add_any", "sub", "mul", "div", "max", "min", "concatenate"}

Values = tuple[int, ...]  # numbers of values of the small program
Sources = tuple[str | None, ...]  # leaves of the small program; `None` for new ones


class _Own(NamedTuple):
    """A value of one leaf and constants: the number of how it is computed, and the leaf."""

    how: int
    leaf: str | None = None


class _Choice(NamedTuple):
    """Sources of leaves of the big model, what the results of an equation then are, and whether
    they depend on new leaves after the last value that the small program has too."""

    sources: dict[str, str | None]
    results: list[_Own] | list[Values]
    new: bool = False


def sources(
    small: FlatModel, big: FlatModel, wished: Origins, *, exact: bool
) -> dict[str, str | None] | None:
    """Leaf of the big model -> leaf of the small one, or `None` for a new one.

    Args:
      small, big: the models.
      wished: origins that are taken where the programs allow it.
      exact: whether an old leaf has the shape that it has in the small model, or only its rank.

    Returns:
      The sources; `None` if none are found.
    """
    return _Matching(small, big, wished, exact).sources()


class _Matching:
    def __init__(self, small: FlatModel, big: FlatModel, wished: Origins, exact: bool):
        self.small, self.big, self.exact = small, big, exact
        self.wished = {name: None if x.new else x.leaf for name, x in wished.items()}
        # What an equation of the small program does -> its leaves, and the numbers of its results.
        self.table: dict[Any, dict[tuple[str, ...], Values]] = defaultdict(dict)
        self.hows: dict[Any, int] = {}  # an expression of one leaf -> its number
        self.facts = self._inputs(small)
        numbers = itertools.count()
        for eqn in small.program.equations:
            ins = [self._of(v) for v in eqn.ins]
            own = self._own(eqn, ins)
            if own is None:
                new = tuple(next(numbers) for _ in eqn.outs)
                # An equation that is there twice has one number.
                results = self.table[self._key(eqn, ins)].setdefault(_leaves(ins), new)
                self._note(eqn, [(number,) for number in results])
            else:
                self._note(eqn, own)
        self.wanted = [self._of(v) for v in small.program.outs]
        self.facts = self._inputs(big)
        self.source: dict[str, str | None] = {}  # leaf of the big model -> its source
        self.taken: set[str | None] = set()
        self.of_new: set[int] = set()  # ids of results that are `new`; see `_Choice`
        self.sizes: Counter[tuple[int, int]] = Counter()  # small and big sizes of old leaves
        self.module = modules(small, big)
        self.kind = self._kinds(big)
        # How many leaves of each kind are new, and not found yet.
        self.new = Counter(self.kind.values()) - Counter(self._kinds(small).values())

    def sources(self) -> dict[str, str | None] | None:
        """See `sources`."""
        equations = self.big.program.equations
        done: list[tuple[Iterator[_Choice], _Choice]] = []  # for each equation before
        choices: Iterator[_Choice] | None = None
        for _ in range(EFFORT * len(equations)):
            if len(done) == len(equations):
                rest = self._unused()
                if rest is not None:
                    return self.source | rest
                choices = iter(())
            elif choices is None:
                choices = iter(sorted(self._choices(equations[len(done)]), key=self._doubt))
            choice = next(choices, None)
            if choice is not None:
                self._settle(choice)
                eqn = equations[len(done)]
                self._note(eqn, choice.results)
                change = self.of_new.update if choice.new else self.of_new.difference_update
                change(map(id, eqn.outs))
                done.append((choices, choice))
                choices = None
                continue
            if not done:
                return None
            choices, choice = done.pop()
            self._unsettle(choice)
        return None

    def _doubt(self, choice: _Choice) -> tuple[int, int]:
        """How doubtful a choice is: the leaves that have another source than is wished, and twice
        the sizes that have become other ones elsewhere (1 for new leaves, which have none)."""
        sources = choice.sources.items()
        unlike = sum(source != self.wished.get(leaf, source) for leaf, source in sources)
        if None in choice.sources.values():
            return unlike, 1
        known = {pair for pair, count in self.sizes.items() if count}
        other = {*self._pairs(choice)} - known
        return unlike, 2 * sum(any((a == c) != (b == d) for c, d in known) for a, b in other)

    def _pairs(self, choice: _Choice) -> list[tuple[int, int]]:
        """The sizes of old leaves in the small and in the big model."""
        old = ((leaf, source) for leaf, source in choice.sources.items() if source is not None)
        sizes = (zip(self.small.shapes[b], self.big.shapes[a], strict=True) for a, b in old)
        return [pair for pairs in sizes for pair in pairs]

    def _settle(self, choice: _Choice) -> None:
        self.source |= choice.sources
        self.taken |= set(choice.sources.values())
        self.new.subtract(self.kind[x] for x, source in choice.sources.items() if source is None)
        self.sizes.update(self._pairs(choice))

    def _unsettle(self, choice: _Choice) -> None:
        for leaf, source in choice.sources.items():
            del self.source[leaf]
            self.taken.discard(source)
            self.new[self.kind[leaf]] += source is None
        self.sizes.subtract(self._pairs(choice))

    def _unused(self) -> dict[str, str | None] | None:
        """The sources of leaves that the big program does not use, in order; `None` if an old leaf
        or a result is not found."""
        for before, v in zip(self.wanted, self.big.program.outs, strict=True):
            now = self._of(v)
            if not isinstance(before, _Own) and (isinstance(now, _Own) or {*before} - {*now}):
                return None
        lost = {name: kind for name, kind in self._kinds(self.small).items()
                if name not in self.taken}  # fmt: skip
        rest: dict[str, str | None] = {}
        for leaf in [leaf for leaf in self.big.shapes if leaf not in self.source]:
            alike = (name for name, kind in lost.items() if kind == self.kind[leaf])
            source = rest[leaf] = next(alike, None)
            lost.pop(source or "", None)
        return None if lost else rest

    def _choices(self, eqn: Equation) -> Iterator[_Choice]:
        """The possibilities for an equation, the likeliest first."""
        ins = [self._of(v) for v in eqn.ins]
        own = self._own(eqn, ins)
        if own is not None:
            yield _Choice({}, own)
            return
        leaves = _leaves(ins)
        old: dict[Sources, list[Values]] = {}
        each: list[Sequence[_Own | Values]] = [
            (x,) if isinstance(x, _Own) else [(n,) for n in x] for x in ins
        ]
        for operands in itertools.islice(itertools.product(*each), VALUES**2):
            for sources, numbers in self.table.get(self._key(eqn, operands), {}).items():
                if self._may_be(leaves, sources):
                    known = old.get(sources, [()] * len(numbers))
                    old[sources] = [_some((*a, b)) for a, b in zip(known, numbers, strict=True)]
        for origin, results in old.items():
            yield _Choice(self._unsettled(leaves, origin), results)
        new: Sources = (None,) * len(leaves)
        if self._may_be(leaves, new) and (leaves or not old):
            touched = bool(leaves) or any(id(v) in self.of_new for v in eqn.ins)
            # A matrix of a new layer may pass on one part of old values that are put together.
            passing = _passed(eqn, ins) if touched or eqn.name == "concatenate" else ()
            passed = _some(n for x in passing if not isinstance(x, _Own) for n in x)
            yield _Choice(self._unsettled(leaves, new), [passed] * len(eqn.outs), touched)

    def _may_be(self, leaves: Sequence[str], sources: Sources) -> bool:
        """Whether leaves may have these sources: each has one, and a module is old or new."""
        for leaf, source in zip(leaves, sources, strict=True):
            if leaf in self.source:
                if self.source[leaf] != source:
                    return False
            elif self.new[self.kind[leaf]] < 1 if source is None else source in self.taken:
                return False
            known = (self.source[other] for other in self.module[leaf] if other in self.source)
            if any((other is None) != (source is None) for other in known):
                return False
        return True

    def _unsettled(self, leaves: Sequence[str], sources: Sources) -> dict[str, str | None]:
        pairs = zip(leaves, sources, strict=True)
        return {leaf: source for leaf, source in pairs if leaf not in self.source}

    def _inputs(self, model: FlatModel) -> dict[int, _Own | Values]:
        """The facts of a program's inputs."""
        count = len(model.shapes)
        facts: dict[int, _Own | Values] = {}
        for v, (leaf, kind) in zip(model.program.ins, self._kinds(model).items(), strict=False):
            facts[id(v)] = _Own(self._number(kind), leaf)
        return facts | {id(v): (-1 - i,) for i, v in enumerate(model.program.ins[count:])}

    def _kinds(self, model: FlatModel) -> dict[str, Any]:
        """Leaf -> its name without numbers, with its shape or rank."""
        size = tuple if self.exact else len
        return {leaf: (without_numbers(leaf), size(x)) for leaf, x in model.shapes.items()}

    def _of(self, v: Any) -> _Own | Values:
        if isinstance(v, Const):
            return _Own(self._number(v.key if self.exact else "constant"))
        return self.facts[id(v)]

    def _number(self, expression: Any) -> int:
        return self.hows.setdefault(expression, len(self.hows))

    def _key(self, eqn: Equation, ins: Iterable[_Own | Values]) -> Any:
        """What an equation does: its primitive, its parameters, and its operands."""
        names = eqn.params.keys() - _BODIES if self.exact else _PARAMS & eqn.params.keys()
        params = tuple(str(eqn.params[name]) for name in sorted(names))
        return eqn.name, params, tuple(x.how if isinstance(x, _Own) else x for x in ins)

    def _own(self, eqn: Equation, ins: Sequence[_Own | Values]) -> list[_Own] | None:
        """The results, if they are computed from one leaf and constants."""
        leaves = set(_leaves(ins))
        if len(leaves) > 1 or not all(isinstance(x, _Own) for x in ins):
            return None
        leaf, key = leaves.pop() if leaves else None, self._key(eqn, ins)
        return [_Own(self._number((key, i)), leaf) for i in range(len(eqn.outs))]

    def _note(self, eqn: Equation, results: Sequence[_Own | Values]) -> None:
        self.facts.update((id(v), fact) for v, fact in zip(eqn.outs, results, strict=True))


def _leaves(ins: Iterable[_Own | Values]) -> tuple[str, ...]:
    return tuple(x.leaf for x in ins if isinstance(x, _Own) and x.leaf is not None)


def _passed(eqn: Equation, ins: Sequence[_Own | Values]) -> Sequence[_Own | Values]:
    """The operands that the result of a new layer's equation may be."""
    if eqn.name in _PASSING:
        return ins
    first = traits(eqn).same or eqn.name in ("dot_general", "conv_general_dilated")
    return ins[:1] if first else ()


def _some(numbers: Iterable[int]) -> Values:
    return tuple(dict.fromkeys(numbers))[:VALUES]
