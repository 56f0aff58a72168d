"""Inputs that are read in parts, such as a scale and a shift in one vector, or two numbers in one.

A value that is only split or sliced, as in `split(x @ w + b, 2)`, is computed part by part instead,
as in `x @ w₁ + b₁` and `x @ w₂ + b₂`. So each part of w and b may be something else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Fresh, Program
from trainkit.growth.ir.simplification.cuts import Cut, cut_operands, ranges_taken
from trainkit.growth.ir.simplification.identities import FREE, Parts, Supposition


class Piece(NamedTuple):
    """Entries `start` to `stop` of an input along an axis."""

    input: int
    axis: int
    start: int
    stop: int


class InParts(NamedTuple):
    """A program in which parts of inputs are inputs of their own.

    Attributes:
      program: its inputs are the old ones, the cut ones unused, and behind them the parts.
      pieces: number of a new input -> which part it is, in order.
    """

    program: Program
    pieces: dict[int, Piece]


class _Tree(NamedTuple):
    """Equations that compute a value that is only read in parts.

    Attributes:
      steps: id of an equation -> how its result is cut, and how each operand is (`None`: it is
        needed whole).
      inputs: (number of an input, how it is cut) for each use of one.
    """

    steps: dict[int, tuple[Cut, list[Cut | None]]]
    inputs: list[tuple[int, Cut]]


def in_parts(program: Program, among: Collection[int]) -> InParts | None:
    """The program with inputs for the parts of some inputs; `None` if they are not read in parts.

    Values that depend on other inputs are not cut, so equations of old layers stay as they are.

    Args:
      program: a flat program.
      among: the numbers of the inputs that may be cut.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> def film(x, w, b):
    ...     scale, shift = jnp.split(x @ w + b, 2, -1)
    ...     return scale + shift
    >>> args = jnp.ones((2, 3)), jnp.ones((3, 8)), jnp.ones(8)
    >>> found = in_parts(Folder().flatten(jax.make_jaxpr(film)(*args)), {1, 2})
    >>> list(found.pieces.values())[1:3]
    [Piece(input=1, axis=1, start=4, stop=8), Piece(input=2, axis=0, start=0, stop=4)]
    """
    trees = _consistent(program, _trees(program, among))
    cuts = {i: cut for tree in trees for i, cut in tree.inputs}
    if not cuts:
        return None
    parts: dict[int, list[Any]] = {}
    pieces: dict[int, Piece] = {}
    ins = list(program.ins)
    for i, cut in sorted(cuts.items()):
        for start, stop in cut.parts():
            pieces[len(ins)] = Piece(i, cut.axis, start, stop)
            ins.append(_part_of(program.ins[i], cut.axis, stop - start))
        parts[id(program.ins[i])] = ins[-len(cut.points) + 1 :]
    steps = {place: step for tree in trees for place, step in tree.steps.items()}
    stands: dict[int, Any] = {}
    ends = {id(program.ins[i]): cut for i, cut in cuts.items()}
    equations = []
    for eqn in program.equations:
        if id(eqn) in steps:
            cut, operands = steps[id(eqn)]
            each = [_of_part(eqn, n, cut, operands, parts, stands) for n in range(_count(cut))]
            equations += each
            parts[id(eqn.outs[0])], ends[id(eqn.outs[0])] = [e.outs[0] for e in each], cut
        elif (taken := ranges_taken(eqn)) and id(eqn.ins[0]) in ends:
            starts = ends[id(eqn.ins[0])].points
            places = [starts.index(start) for start, _ in taken[1]]
            stands |= {
                id(v): parts[id(eqn.ins[0])][place]
                for v, place in zip(eqn.outs, places, strict=True)
            }
        else:
            now = [stands.get(id(v), v) for v in eqn.ins]
            equations.append(Equation(eqn.raw, now, eqn.outs, eqn.calls))
    return InParts(Program(ins, equations, [stands.get(id(v), v) for v in program.outs]), pieces)


def of_parts(
    chosen: Mapping[int, Supposition], pieces: Mapping[int, Piece]
) -> dict[int, Supposition | Parts]:
    """Number of an input -> what it is, if something is said of its parts.

    Args:
      chosen: number of an input -> what it is.
      pieces: those numbers that are parts of other inputs.
    """
    parts: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for n, piece in pieces.items():
        parts[piece.input].append((piece.stop - piece.start, str(chosen.get(n, FREE))))
    axes = {piece.input: piece.axis for piece in pieces.values()}
    found: dict[int, Supposition | Parts] = {}
    for i, each in parts.items():
        kinds = {what for _, what in each}
        if kinds != {FREE}:
            found[i] = kinds.pop() if len(kinds) == 1 else Parts(axes[i], tuple(each))
    return found


def _trees(program: Program, among: Collection[int]) -> Iterator[_Tree]:
    """The values that are only read in parts, and that can be computed part by part."""
    uses: dict[int, list[Equation | None]] = defaultdict(list)  # `None`: it is needed whole
    for eqn in program.equations:
        for v in eqn.ins:
            uses[id(v)].append(eqn)
    for v in program.outs:
        uses[id(v)] += [None, None]  # more than one use, so that it is not taken apart
    producer = {id(v): eqn for eqn in program.equations for v in eqn.outs}
    number = {id(program.ins[i]): i for i in among}
    values = [program.ins[i] for i in among]
    values += [eqn.outs[0] for eqn in program.equations if len(eqn.outs) == 1]
    for value in values:
        cut = _read_in_parts(value, uses[id(value)])
        tree = None if cut is None else _tree(value, cut, uses, producer, number)
        if tree is not None:
            yield tree


def _read_in_parts(value: Any, uses: Sequence[Equation | None]) -> Cut | None:
    """How a value is cut by all equations that use it; `None` if one needs it whole."""
    found = [None if eqn is None else ranges_taken(eqn) for eqn in uses]
    axes = {None if taken is None else taken[0] for taken in found}
    if len(axes) != 1 or None in axes:
        return None
    (axis,) = axes
    ranges = {part for taken in found if taken for part in taken[1]}
    points = sorted({0, value.aval.shape[axis]} | {n for part in ranges for n in part})
    cut = Cut(int(axis or 0), tuple(points))
    return cut if _count(cut) > 1 and ranges <= set(cut.parts()) else None


def _tree(
    value: Any,
    cut: Cut,
    uses: Mapping[int, list[Equation | None]],
    producer: Mapping[int, Equation],
    number: Mapping[int, int],
) -> _Tree | None:
    """The equations that compute a value from inputs that may be cut; `None` if others do."""
    tree = _Tree({}, [])
    stack = [(value, cut)]
    while stack:
        v, cut = stack.pop()
        if id(v) in number:
            tree.inputs.append((number[id(v)], cut))
            continue
        eqn = producer.get(id(v))
        operands = None if eqn is None or len(eqn.outs) != 1 else cut_operands(eqn, cut)
        if eqn is None or operands is None:
            return None
        tree.steps[id(eqn)] = cut, operands
        for u, inner in zip(eqn.ins, operands, strict=True):
            if inner is None or (isinstance(u, Const) and u.uniform is not None):
                continue
            if isinstance(u, Const) or (id(u) not in number and len(uses[id(u)]) != 1):
                return None
            stack.append((u, inner))
    return tree


def _consistent(program: Program, trees: Iterator[_Tree]) -> list[_Tree]:
    """The trees whose inputs are read in the same parts by all that use them."""
    count: dict[int, int] = defaultdict(int)
    for v in [v for eqn in program.equations for v in eqn.ins] + program.outs:
        count[id(v)] += 1
    kept = list(trees)
    while True:
        cuts: dict[int, set[Cut]] = defaultdict(set)
        used: dict[int, int] = defaultdict(int)
        for tree in kept:
            for i, cut in tree.inputs:
                cuts[i].add(cut)
                # What is taken of an input itself is read by several equations.
                used[i] += count[id(program.ins[i])] if not tree.steps else 1
        wrong = {i for i in cuts if len(cuts[i]) > 1 or used[i] != count[id(program.ins[i])]}
        if not wrong:
            return kept
        kept = [tree for tree in kept if not wrong & {i for i, _ in tree.inputs}]


def _of_part(
    eqn: Equation,
    n: int,
    cut: Cut,
    operands: Sequence[Cut | None],
    parts: Mapping[int, list[Any]],
    stands: Mapping[int, Any],
) -> Equation:
    """Part n of an equation's result."""
    start, stop = cut.points[n : n + 2]
    out = _part_of(eqn.outs[0], cut.axis, stop - start)
    ins = []
    for v, inner in zip(eqn.ins, operands, strict=True):
        if inner is None:
            ins.append(stands.get(id(v), v))
        elif isinstance(v, Const):
            ins.append(_shorter(v, inner.axis, stop - start))
        else:
            ins.append(parts[id(v)][n])
    shape = {"broadcast_in_dim": "shape", "reshape": "new_sizes"}.get(eqn.name)
    params = {**eqn.params, **({shape: tuple(out.aval.shape)} if shape else {})}
    avals: list[Any] = [
        Fresh(v.aval if hasattr(v, "aval") else old.aval.update(shape=v.shape))
        for v, old in zip(ins, eqn.raw.invars, strict=True)
    ]
    result: list[Any] = [Fresh(out.aval)]
    raw = eqn.raw.replace(params=params, invars=avals, outvars=result)
    return Equation(raw, ins, [out], eqn.calls)


def _shorter(v: Const, axis: int, size: int) -> Const:
    """A part of a constant whose elements are equal."""
    shape = tuple(size if d == axis else n for d, n in enumerate(v.shape))
    return Const(shape, v.dtype, ("part", v.key, shape), lambda: None, v.uniform)


def _part_of(v: Any, axis: int, size: int) -> Fresh:
    shape = tuple(size if d == axis else n for d, n in enumerate(v.aval.shape))
    return Fresh(v.aval.update(shape=shape))


def _count(cut: Cut) -> int:
    return len(cut.points) - 1
