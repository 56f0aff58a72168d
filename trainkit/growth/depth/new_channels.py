"""New layers whose results are concatenated to a stream, as in a DenseNet.

Such a layer needs no identity. What it adds are new channels behind the old ones, and whatever
reads the stream reads them with 0. So the layer is taken out of the big program, and its result
becomes an input of 0 → k channels, of which nothing is known. The two programs then differ in
widths alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Fresh, Program, live


class NewChannels(NamedTuple):
    """Two programs with inputs for the results of new layers, which come last.

    Attributes:
      small, big: the programs; in the small one these inputs have no channels.
      axes: for each new input, the axis of its channels.
    """

    small: Program
    big: Program
    axes: tuple[int, ...]


def with_new_channels(
    small: Program, big: Program, new: Collection[int], old: Mapping[int, int]
) -> NewChannels | None:
    """The programs without new layers; `None` if their results are not only concatenated.

    Args:
      small, big: the simplified programs.
      new: numbers of the inputs of `big` that are parameters of new layers.
      old: number of an input of `small` -> its number in `big`.
    """
    cuts, inside = _concatenated(big, new)
    if not cuts or any(id(v) in inside for v in big.outs):
        return None
    kept = live([e for e in big.equations if not any(id(v) in inside for v in e.outs)], big.outs)
    made = _Inserted(small, {id(big.ins[j]): small.ins[i] for i, j in old.items()}, inside)
    equations = []
    for eqn in kept:
        theirs = made.add(eqn) if id(eqn) in cuts else made.follow(eqn)
        if theirs is None:
            return None
        equations.append(theirs)
    if made.left:
        return None
    outs = made.operands(small.outs, big.outs)
    if outs is None:
        return None
    extra = list(made.extra.values())
    return NewChannels(
        Program([*small.ins, *(s for s, _, _ in extra)], made.equations, outs),
        Program([*big.ins, *(b for _, b, _ in extra)], equations, big.outs),
        tuple(axis for _, _, axis in extra),
    )


def _concatenated(big: Program, new: Collection[int]) -> tuple[set[int], set[int]]:
    """The equations that concatenate results of new layers to old values, and the ids of the
    values inside new layers."""
    inside = {id(big.ins[i]) for i in new}
    cuts = set()
    for eqn in big.equations:
        fresh = [id(v) in inside for v in eqn.ins]
        if eqn.name == "concatenate" and any(fresh) and not all(fresh):
            cuts.add(id(eqn))
        elif any(fresh):
            inside.update(id(v) for v in eqn.outs)
    return cuts, inside


class _Inserted:
    """The small program with an operand of no channels wherever the big one has a new one."""

    def __init__(self, small: Program, now: dict[int, Any], inside: Collection[int]):
        self.left = list(small.equations)
        self.now, self.inside = now, inside  # variable of the big program -> of the small one
        # An inserted concatenation with nothing -> the operand that it is.
        self.stands: dict[int, Any] = {}
        self.extra: dict[int, tuple[Fresh, Fresh, int]] = {}
        self.equations: list[Equation] = []

    def operands(self, mine: Sequence[Any], theirs: Sequence[Any]) -> list[Any] | None:
        """The operands of an equation; `None` if the big program applies it to other values.

        Equations that have the same primitives are no proof that they read the same values.
        """
        pairs = zip(mine, theirs, strict=True)
        found = [a if isinstance(b, Const) else self.now.get(id(b)) for a, b in pairs]
        same = all(self.stands.get(id(v), v) is a for v, a in zip(found, mine, strict=True))
        return found if same else None

    def follow(self, theirs: Equation) -> Equation | None:
        """An equation that both programs have; `None` if they differ."""
        mine = self.left.pop(0) if self.left else None
        if mine is None or mine.name != theirs.name or len(mine.ins) != len(theirs.ins):
            return None
        ins = self.operands(mine.ins, theirs.ins)
        if ins is None:
            return None
        return self._pair(Equation(mine.raw, ins, mine.outs, mine.calls), theirs)

    def add(self, theirs: Equation) -> Equation | None:
        """A concatenation with new operands."""
        axis = theirs.params["dimension"]
        olds = [v for v in theirs.ins if id(v) not in self.inside]
        mine = self.left[0] if self.left else None
        shared = mine is not None and mine.name == "concatenate" and len(mine.ins) == len(olds)
        operands = self.operands(mine.ins, olds) if mine is not None and shared else None
        if mine is not None and operands is not None:
            self.left.pop(0)
            raw, outs = mine.raw, mine.outs
        elif len(olds) == 1 and id(olds[0]) in self.now:
            operands = [self.now[id(olds[0])]]
            raw, outs = theirs.raw, [Fresh(operands[0].aval)]
            self.stands[id(outs[0])] = self.stands.get(id(operands[0]), operands[0])
        else:
            return None
        rest = iter(operands)
        ins, wide = [], []
        for v in theirs.ins:
            if id(v) not in self.inside:
                ins.append(next(rest))
                wide.append(v)
                continue
            if id(v) not in self.extra:
                none = tuple(0 if d == axis else n for d, n in enumerate(v.aval.shape))
                self.extra[id(v)] = Fresh(v.aval.update(shape=none)), Fresh(v.aval), axis
            ins.append(self.extra[id(v)][0])
            wide.append(self.extra[id(v)][1])
        whole = Equation(theirs.raw, wide, theirs.outs, theirs.calls)
        return self._pair(Equation(raw, ins, outs, theirs.calls), whole)

    def _pair(self, mine: Equation, theirs: Equation) -> Equation:
        self.equations.append(mine)
        self.now.update((id(b), a) for a, b in zip(mine.outs, theirs.outs, strict=True))
        return theirs
