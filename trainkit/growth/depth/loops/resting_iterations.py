"""New iterations of loops over layers that change nothing: what their rows of parameters are then.

An iteration is proved to return the carry that it is given. Where the body alone does not tell, the
constants of the rows do (which half a coupling layer changes, or the number of a branch), or what
new iterations do one after the other (two that reverse a value).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trainkit._core.compat import scan_counts
from trainkit.growth.depth.flat_model import FlatModel
from trainkit.growth.depth.identity import choices
from trainkit.growth.depth.identity_search import advice
from trainkit.growth.depth.loops.layer_axes import Row, Stacks, stacked
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Folder, Program, live
from trainkit.growth.ir.simplification.clips import Bounds, clips
from trainkit.growth.ir.simplification.identities import (
    EYE_FIRST,
    EYES_FIRST,
    ZERO,
    EyeBlock,
    Parts,
    Shape,
    Supposition,
    is_eye,
)
from trainkit.growth.ir.simplification.leaf_parts import in_parts, of_parts
from trainkit.growth.ir.simplification.opened_loops import constants, iterations
from trainkit.growth.ir.simplification.partial_evaluation import reduced
from trainkit.growth.ir.source_lines import where
from trainkit.growth.ir.zero_analysis import nearest_zeros


class Resting(NamedTuple):
    """What makes new iterations of loops identities.

    Attributes:
      becomes: leaf -> what its new rows are.
      zeros: ids of results of loops, as variables of the program, that new iterations leave at 0.
    """

    becomes: dict[str, Supposition | Parts]
    zeros: frozenset[int]


def resting(
    big: FlatModel, stacks: Stacks, folder: Folder, trainable: Callable[[str], bool]
) -> Resting | Conflict:
    """Values of new rows of stacked leaves, so that their loop iterations are identities."""
    names = list(big.shapes)
    facts = stacked(big.program)
    becomes: dict[str, Supposition | Parts] = {}
    zeros: set[int] = set()
    for eqn in big.program.equations:
        if eqn.name != "scan":
            continue
        rows: dict[int, Row] = {}
        first = sum(scan_counts(eqn.params))
        for i, v in enumerate(eqn.ins[first:], first):
            fact = facts.of(v)
            name = names[fact.input] if 0 <= fact.input < len(names) else None
            if name is not None and name in stacks and fact.axes[0] == stacks[name][0]:
                rows[i] = Row(name, fact)
        if not rows:
            continue
        numbers = [i for i, (_, new) in enumerate(stacks[next(iter(rows.values())).name][1]) if new]
        loop = _Loop(big.program, eqn, rows, numbers, folder, trainable, becomes)
        chosen = loop.chosen()
        if isinstance(chosen, Conflict):
            return chosen
        becomes |= {rows[i].name: what for i, what in chosen[0].items()}
        zeros |= {id(eqn.outs[i]) for i in chosen[1]}
    return Resting(becomes, frozenset(zeros))


class _Loop:
    """A loop with new iterations.

    Args:
      program: the program that it is in.
      loop: its equation.
      rows: number of an operand -> the row of a parameter that it is.
      new: the numbers of the new iterations.
      folder: flattens bodies.
      trainable: name -> whether the parameter may be set.
      before: leaf -> what its new rows are, if loops before need it.
    """

    def __init__(
        self,
        program: Program,
        loop: Equation,
        rows: Mapping[int, Row],
        new: Sequence[int],
        folder: Folder,
        trainable: Callable[[str], bool],
        before: Mapping[str, Supposition | Parts],
    ):
        self.program, self.loop, self.rows, self.new = program, loop, rows, new
        self.folder, self.before = folder, dict(before)
        self.start, self.carried = scan_counts(loop.params)
        self.free = {i for i, row in rows.items() if trainable(row.name) and row.fact.zero}
        # Others are not known to be what they are supposed to be, unless that is 0.
        self.same = {i for i, row in rows.items() if row.keeps_identity}

    def chosen(self) -> tuple[Mapping[int, Supposition | Parts], set[int]] | Conflict:
        """What rows of operands are in new iterations, and the results that are 0 then."""
        for sequences in self._sequences():
            found = self._chosen_for(sequences)
            if found is not None:
                return found
        body = self._body(None)
        parts = self._in_parts(body)
        if parts is not None:
            return parts, set()
        nearest = nearest_zeros(body, self.free)
        return Conflict(
            "new layers of a loop cannot be identities: with "
            f"{', '.join(self.rows[i].name for i in sorted(nearest)) or 'no parameters'} at 0 the "
            "carry still changes",
            "layers",
            params=tuple(row.name for row in self.rows.values())[:6],
            primitive=self.loop.name,
            source=where(self.loop),
            hint=advice(body, self.rows, [i for i in range(len(body.ins)) if i not in self.rows]),
        )

    def _chosen_for(
        self, sequences: Sequence[Sequence[int | None]]
    ) -> tuple[dict[int, Supposition], set[int]] | None:
        """Values of rows under which each of some sequences of iterations changes nothing."""
        written = [iterations(self.loop, self.folder, numbers) for numbers in sequences]
        rows = len(self.loop.ins) - self.start - self.carried

        def left(what: Mapping[int, Supposition], k: int) -> Program:
            of_all = range(len(sequences[k]))
            supposed = {i + n * rows: value for i, value in what.items() for n in of_all}
            return reduced(written[k], supposed, clipped=self.clipped)

        chosen = self._given()
        for k, numbers in enumerate(sequences):  # they may use different parameters
            if not k or not self._rests(left(chosen, k)):
                body = self._body(numbers[0])
                shapes = [v.aval.shape for v in body.ins]
                every = (what | chosen for what in self._choices(body, shapes))
                agreed = filter(self._agree, every)
                chosen = next((what for what in agreed if self._rests(left(what, k))), chosen)
        lefts = [left(chosen, k) for k in range(len(sequences))]
        if not all(map(self._rests, lefts)):
            return None
        return chosen, set.intersection(*map(self._zeros, lefts))

    def _in_parts(self, body: Program) -> dict[int, Supposition | Parts] | None:
        """Values of rows, some of them in parts, under which any iteration changes nothing."""
        cut = in_parts(body, {i for i in self.free & self.same if self.rows[i].unturned})
        if cut is None:
            return None
        # No part may be an identity matrix, so they count as vectors here.
        shapes = [v.aval.shape for v in body.ins] + [(0,)] * len(cut.pieces)
        for what in self._choices(cut.program, shapes, cut.pieces.keys()):
            if self._rests(reduced(cut.program, what, clipped=self.clipped)):
                whole = {i: value for i, value in what.items() if i in self.rows}
                found = {**whole, **of_parts(what, cut.pieces)}
                if self._agree(found):
                    return found
        return None

    def _given(self) -> dict[int, Supposition]:
        """What rows are by the loops before, which may run over the same leaves."""
        found: dict[int, Supposition] = {}
        for i, row in self.rows.items():
            what = self.before.get(row.name)
            kept = i in self.same or (what == ZERO and row.fact.zero)
            if kept and what is not None and not isinstance(what, Parts):
                found[i] = what
        return found

    def _agree(self, what: Mapping[int, Supposition | Parts]) -> bool:
        """Whether each leaf is one thing, wherever this loop and those before use it."""
        leaves = dict(self.before)
        every = ((self.rows[i].name, value) for i, value in what.items())
        return all(leaves.setdefault(name, value) == value for name, value in every)

    def _choices(
        self, body: Program, shapes: Sequence[Shape], parts: Collection[int] = ()
    ) -> Iterator[dict[int, Supposition]]:
        """What the rows of an iteration may be, the likeliest first; inputs may be `parts`."""
        free, same = self.free.union(parts), self.same.union(parts)
        nearest = nearest_zeros(body, free)
        for what in choices(body, shapes, self.rows.keys() | set(parts), free, nearest):
            others = [i for i in what if what[i] != ZERO]
            if all(i in same and _holds(shapes[i], what[i]) for i in others):
                yield what

    def _sequences(self) -> Iterator[list[list[int | None]]]:
        """Iterations that have to change nothing, one after the other; three ways to see that.

        Any iteration by itself; or the new ones by their constants, each by itself; or new ones
        that follow each other.
        """
        yield [[None]]
        known = {n: constants(self.loop, self.folder, n) for n in self.new}
        key = lambda n: tuple((i, v.key) for i, v in known[n].items())
        alone: dict[Any, list[int | None]] = {key(n): [n] for n in self.new}
        if any(known.values()):
            yield list(alone.values())
        runs: list[list[int]] = []
        for n in self.new:
            if runs and n == runs[-1][-1] + 1:
                runs[-1].append(n)
            else:
                runs.append([n])
        if any(len(run) > 1 for run in runs):
            order = -1 if self.loop.params["reverse"] else 1
            in_order: dict[Any, list[int | None]] = {
                tuple(map(key, run)): [*run[::order]] for run in runs
            }
            yield list(in_order.values())

    def _body(self, number: int | None) -> Program:
        """An iteration, and what becomes of the carry."""
        one = iterations(self.loop, self.folder, [number])
        outs = one.outs[: self.carried]
        return Program(one.ins, live(one.equations, outs), outs)

    @functools.cached_property
    def clipped(self) -> dict[int, Bounds]:
        """Number of a carried value -> its bounds, before the loop and after every iteration."""
        body = self._body(None)
        result: dict[int, Bounds] = {}
        for i, out in enumerate(body.outs, self.start):
            before, after = clips(self.program, self.loop.ins[i]), clips(body, out)
            result[i] = {what: n for what, n in before.items() if after.get(what) == n}
        return result

    def _rests(self, left: Program) -> bool:
        """Whether iterations return their carry."""
        pairs = zip(left.ins[self.start :], left.outs[: self.carried], strict=False)
        return all(before is after for before, after in pairs)

    def _zeros(self, left: Program) -> set[int]:
        """The results of the loop that are 0 in all of some iterations."""
        stacked = range(self.carried, len(self.loop.outs))
        outs = left.outs[self.carried :]
        zero = [isinstance(v, Const) and v.is_zero for v in outs]
        return {i for k, i in enumerate(stacked) if all(zero[k :: len(stacked)])}


def _holds(shape: Shape, what: Supposition) -> bool:
    """Whether an array of some shape can be what it is supposed to be."""
    if isinstance(what, EyeBlock):
        return what.size == shape[-1]
    if what in (EYE_FIRST, EYES_FIRST):
        return len(shape) > 1 and shape[0] == shape[1]
    return not is_eye(what) or (len(shape) > 1 and shape[-1] == shape[-2])
