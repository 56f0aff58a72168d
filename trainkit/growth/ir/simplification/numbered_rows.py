"""Leaves whose rows are picked by known numbers, as in a loop in Python over stacked layers.

Without a loop in the program, each row is a leaf like any other: `apart` makes it an input of its
own, and `together` puts rows back into one input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from trainkit.growth.ir.program import Equation, Fresh, Program


class NumberedRows(NamedTuple):
    """How a program picks the rows of an input.

    Attributes:
      axis: the axis of the rows.
      picks: for each row the equations that take it from the input: a slice (if there is more than
        one row), and one that takes the axis away; or the one that takes all rows.
    """

    axis: int
    picks: tuple[tuple[Equation, ...], ...]


class _Taken(NamedTuple):
    """Part of a row, or of what it is converted to.

    Attributes:
      row: the number of the row.
      equations: those that take it; see `NumberedRows`.
      value: the variable that holds it.
      converted: conversions of the whole input that come before.
    """

    row: int
    equations: tuple[Equation, ...]
    value: Any
    converted: tuple[Equation, ...]


def numbered_rows(program: Program, axes: Mapping[int, int]) -> dict[int, NumberedRows]:
    """Number of an input -> how its rows are picked, where nothing else is done with it.

    Every row has to be picked. The input may be converted to another precision before.

    Args:
      program: a flat program.
      axes: number of an input -> the axis of its rows, if they are rows.
    """
    users = _users(program)
    found = {}
    for i, axis in axes.items():
        taken = _taken(program, program.ins[i], axis, users)
        rows = {row: equations for row, equations, *_ in reversed(taken)}
        if rows.keys() == set(range(program.ins[i].aval.shape[axis])):
            found[i] = NumberedRows(axis, tuple(rows[n] for n in range(len(rows))))
    return found


def apart(program: Program, axes: Mapping[int, int]) -> Program:
    """The program with an input for each row in the place of some inputs.

    Args:
      program: a flat program.
      axes: numbers of inputs that `numbered_rows` returned -> the axes of their rows.
    """
    users = _users(program)
    ins: list[Any] = []
    stands_for: dict[int, Any] = {}
    instead: dict[int, list[Equation]] = {}  # id of an equation -> those that take its place
    for i, v in enumerate(program.ins):
        if i not in axes:
            ins.append(v)
            continue
        shape = _without(v.aval.shape, axes[i])
        rows = [Fresh(v.aval.update(shape=shape)) for _ in range(v.aval.shape[axes[i]])]
        ins += rows
        for taken in _taken(program, v, axes[i], users):
            made = _of_row(taken, rows[taken.row], axes[i])
            instead |= {id(eqn): [] for eqn in (*taken.equations[1:], *taken.converted)}
            instead.setdefault(id(taken.equations[0]), []).extend(made)
            stands_for[id(taken.value)] = made[-1].outs[0] if made else rows[taken.row]
    of = lambda v: stands_for.get(id(v), v)
    equations = [
        new
        for eqn in program.equations
        for new in instead.get(
            id(eqn), [Equation(eqn.raw, [of(v) for v in eqn.ins], eqn.outs, eqn.calls)]
        )
    ]
    return Program(ins, equations, [of(v) for v in program.outs])


def _of_row(taken: _Taken, row: Any, axis: int) -> list[Equation]:
    """The equations that make of a row what is taken of it."""
    made: list[Equation] = []

    def add(eqn: Equation, shape: tuple[int, ...], **params: Any) -> None:
        before = made[-1].outs[0] if made else row
        result = Fresh(eqn.outs[0].aval.update(shape=shape))
        ends: Any = {"invars": [Fresh(before.aval)], "outvars": [result]}
        raw = eqn.raw.replace(params={**eqn.params, **params}, **ends)
        made.append(Equation(raw, [before], [result], eqn.calls))

    for eqn in taken.converted:
        add(eqn, row.aval.shape)
    *cut, last = taken.equations
    for eqn in cut:
        if (part := _without(eqn.outs[0].aval.shape, axis)) != row.aval.shape:
            ends = {name: _without(eqn.params[name], axis) for name in _ENDS}
            strides = eqn.params["strides"]
            add(eqn, part, strides=strides and _without(strides, axis), **ends)
    dimensions = last.params["dimensions"] if last.name == "squeeze" else ()
    if left := [d - (d > axis) for d in dimensions if d != axis]:
        add(last, taken.value.aval.shape, dimensions=tuple(left))
    return made


def together(program: Program, inputs: Iterable[int | tuple[list[int], NumberedRows]]) -> Program:
    """The program with one input in the place of several rows.

    Args:
      program: a flat program that `apart` made, perhaps simplified since.
      inputs: what its inputs shall be: each the number of one, or those of rows, in order, and how
        rows were picked.
    """
    first: list[Equation] = []
    ins = []
    for what in inputs:
        if isinstance(what, int):
            ins.append(program.ins[what])
            continue
        numbers, (axis, picks) = what
        rows = [program.ins[i] for i in numbers]
        rest = rows[0].aval.shape
        shape = lambda n, rest=rest, axis=axis: (*rest[:axis], n, *rest[axis:])
        ins.append(Fresh(rows[0].aval.update(shape=shape(len(rows)))))
        every = [eqn for eqn, *_ in picks if eqn.name == "unstack"]
        if every:
            first.append(Equation(every[0].raw, [ins[-1]], rows, every[0].calls))
            continue
        for i, (row, (*cut, flat)) in enumerate(zip(rows, picks, strict=False)):
            of = ins[-1]
            if len(rows) > 1:
                start = tuple(i if d == axis else 0 for d in range(len(rest) + 1))
                end = tuple(i + 1 if d == axis else n for d, n in enumerate(shape(1)))
                params = {**cut[0].params, **dict(zip(_ENDS, (start, end), strict=True))}
                of = Fresh(row.aval.update(shape=shape(1)))
                raw = cut[0].raw.replace(params=params | {"strides": None})
                first.append(Equation(raw, [ins[-1]], [of], cut[0].calls))
            raw = flat.raw.replace(params={**flat.params, "dimensions": (axis,)})
            first.append(Equation(raw, [of], [row], flat.calls))
    return Program(ins, [*first, *program.equations], program.outs)


_ENDS = "start_indices", "limit_indices"


def _taken(
    program: Program, value: Any, axis: int, users: Mapping[int, list[Equation]]
) -> list[_Taken]:
    """What is picked of rows along an axis; nothing if anything else is done with the value."""
    found: list[_Taken] = []
    results = {id(v) for v in program.outs}
    pending: list[tuple[Any, tuple[Equation, ...]]] = [(value, ())]
    while pending:
        v, converted = pending.pop()
        if id(v) in results:
            return []
        for eqn in users[id(v)]:
            if eqn.name == "convert_element_type":
                pending.append((eqn.outs[0], (*converted, eqn)))
            elif eqn.name == "unstack" and eqn.params["axis"] == axis:
                found += [_Taken(i, (eqn,), out, converted) for i, out in enumerate(eqn.outs)]
            elif _drops(eqn, axis):
                found.append(_Taken(0, (eqn,), eqn.outs[0], converted))
            else:
                flat = users[id(eqn.outs[0])]
                one = eqn.name == "slice" and eqn.outs[0].aval.shape[axis] == 1
                if not one or id(eqn.outs[0]) in results or not all(_drops(x, axis) for x in flat):
                    return []
                row = int(eqn.params["start_indices"][axis])
                found += [_Taken(row, (eqn, x), x.outs[0], converted) for x in flat]
    return found


def _drops(eqn: Equation, axis: int) -> bool:
    return eqn.name == "squeeze" and axis in eqn.params["dimensions"]


def _users(program: Program) -> dict[int, list[Equation]]:
    users: dict[int, list[Equation]] = defaultdict(list)
    for eqn in program.equations:
        for v in {id(v): v for v in eqn.ins}.values():
            users[id(v)].append(eqn)
    return users


def _without(items: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(n for d, n in enumerate(items) if d != axis)
