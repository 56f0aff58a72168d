"""The search for values of new parameters under which new layers are identities, with proof."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from trainkit.growth.depth.flat_model import Shapes
from trainkit.growth.depth.identity import (
    choices,
    same_equations,
    same_operands,
    used,
)
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.dataflow import dependent
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Folder, Program, by_dependence, live
from trainkit.growth.ir.simplification.identities import Parts, Supposition, is_eye
from trainkit.growth.ir.simplification.leaf_parts import Piece, in_parts, of_parts
from trainkit.growth.ir.simplification.opened_loops import closed, opened
from trainkit.growth.ir.simplification.partial_evaluation import reduced
from trainkit.growth.ir.zero_analysis import nearest_zeros

_FUNCTION_CHANGING = "how='stack', 'interpose', 'middle' or 'last'"


class Identities(NamedTuple):
    """Values of parameters under which new layers are identities, with the proof.

    Attributes:
      chosen: number of an input of the big program -> what it is.
      small, big: the simplified programs, which are equal equation for equation.
      arrange: the order of their equations, given a simplified program.
      program: the big program, in which loops may be opened, and parts of inputs may be inputs.
      close: closes the loops of a simplified program, and leaves out inputs for parts; `None` if a
        loop cannot be closed.
      parts: what inputs are of which parts are set.
    """

    chosen: dict[int, Supposition]
    small: Program
    big: Program
    arrange: Callable[[Program], Program]
    program: Program
    close: Callable[[Program], Program | None] = lambda program: program
    parts: Mapping[int, Supposition | Parts] = MappingProxyType({})


def identity_layers(
    reduced_small: Callable[[bool, bool], Program],
    program: Program,
    shapes: Shapes,
    new: Mapping[int, str],
    old: Mapping[int, int],
    trainable: Callable[[str], bool],
    folder: Folder,
) -> Identities | Conflict:
    """Parameters of new layers that are 0, 1 or identities, so that the layers are identities.

    Args:
      reduced_small: whether parts are merged (see `reduced`), and whether loops are opened -> the
        simplified small program.
      program: the big program.
      shapes: the shapes of its parameters.
      new: number of an input of the big program that belongs to a new layer -> its name.
      old: number of an input of the small program -> its number in the big one.
      trainable: name -> whether the parameter may be set.
      folder: flattens bodies.

    Returns:
      The first choice that is proved, or a conflict if there is none.
    """
    found = _identities(reduced_small, False, program, shapes, new, old, trainable)
    if not isinstance(found, Conflict):
        return found
    free = [i for i, name in new.items() if trainable(name)]
    if (cut := in_parts(program, free)) is not None:
        both = {**new, **{n: new[piece.input] for n, piece in cut.pieces.items()}}
        parted = _identities(
            reduced_small, False, cut.program, shapes, both, old, trainable, cut.pieces
        )
        if not isinstance(parted, Conflict):
            return parted
    touched = dependent(program, new.keys())
    loops = (eqn for eqn in program.equations if eqn.name == "scan")
    if not any(touched.of(v) for eqn in loops for v in eqn.ins):
        return found
    # Perhaps new layers are in the body of a loop.
    wide = opened(program, folder)
    inside = _identities(reduced_small, True, wide, shapes, new, old, trainable)
    if isinstance(inside, Conflict):
        return found
    return inside._replace(close=lambda program: closed(program, folder))


def _identities(
    reduced_small: Callable[[bool, bool], Program],
    inside: bool,
    program: Program,
    shapes: Shapes,
    new: Mapping[int, str],
    old: Mapping[int, int],
    trainable: Callable[[str], bool],
    pieces: Mapping[int, Piece] = MappingProxyType({}),
) -> Identities | Conflict:
    """`identity_layers` of a program, in which loops may be opened (`inside`).

    Its inputs may be `pieces` of others.
    """
    free = {i for i, name in new.items() if trainable(name)}
    nearest = nearest_zeros(program, free)
    weights = set(range(len(shapes))) - new.keys()
    for chosen in choices(program, list(shapes.values()), new.keys(), free, nearest, weights):
        plain = not any(map(is_eye, chosen.values()))
        before, after = reduced_small(plain, inside), reduced(program, chosen, merged=plain)
        if used(after) & new.keys() or len(before.equations) != len(after.equations):
            continue
        for arrange in (lambda program: program, by_dependence):
            one, other = arrange(before), arrange(after)
            # Products with identity matrices are put into the small program as they are in the big
            # one, so that pairing these two proves nothing of their operands.
            if not same_equations(one, other):
                continue
            if (plain or same_operands(one, other, old)) and _apart(program, chosen, pieces):
                rest = {
                    n: what for n, what in chosen.items() if n not in pieces or not is_eye(what)
                }
                found = Identities(rest, one, other, arrange, program)
                whole = functools.partial(_without, pieces)
                return found._replace(close=whole, parts=of_parts(rest, pieces))
    names = list(new.values())
    zero = [name for i, name in enumerate(shapes) if i in nearest]
    what = _still_changed(reduced_small(True, inside), reduced(program, dict(nearest)))
    return Conflict(
        f"the layer of {names[0]} cannot be an identity: with "
        f"{', '.join(zero[:4]) or 'no parameters'} at 0 it still changes {what}, and it is not "
        "a square layer between ReLUs either",
        "layers",
        params=tuple(names[:6]),
        hint=advice(program, new, range(len(shapes), len(program.ins))),
    )


def _apart(
    program: Program, chosen: Mapping[int, Supposition], pieces: Mapping[int, Piece]
) -> bool:
    """Whether no part of a parameter has to be an identity matrix, which is not supported."""
    eyes = {n for n in pieces if n in chosen and is_eye(chosen[n])}
    return not eyes or not eyes & used(reduced(program, chosen, keep_eyes=True))


def _without(pieces: Collection[int], program: Program) -> Program:
    """A program without the inputs that are parts of others, and are not used."""
    ins = [v for i, v in enumerate(program.ins) if i not in pieces]
    return Program(ins, program.equations, program.outs)


def _still_changed(before: Program, after: Program) -> str:
    """What new layers change: some of the results, or the input of the next layer."""
    count = lambda program, out: len(live(program.equations, [out]))
    pairs = list(zip(before.outs, after.outs, strict=True))
    changed = [i for i, (a, b) in enumerate(pairs) if count(before, a) != count(after, b)]
    if not changed or len(changed) == len(pairs):
        return "its input"
    return " and ".join(f"result {i}" for i in changed) + f" (of 0 to {len(pairs) - 1})"


def advice(program: Program, new: Collection[int], data: Collection[int]) -> str:
    """What to do about layers that cannot be identities.

    Args:
      program: the big program, or the body of its loop over layers.
      new: numbers of the inputs that are parameters of new layers.
      data: numbers of the inputs that are no parameters.
    """
    change = f"add layers that change the function: {_FUNCTION_CHANGING}"
    if any(eqn.name == "top_k" for eqn in program.equations):
        change = f"hold the weights of experts in one array, with an axis of experts; or {change}"
    residual, gated = _around(program, new, data)
    gate = "needs a gate, as in x + gate · block(x) with gate = 0"
    if residual and _normalises(program):
        return f"a norm behind the residual addition (post-norm) {gate}; or {change}"
    if gated or residual or _normalises(program):
        return (
            f"a layer that is no identity when its matrices are 0 or identities {gate}; or {change}"
        )
    return f"plain layers need ReLU between them and square kernels; or {change}"


def _around(program: Program, new: Collection[int], data: Collection[int]) -> tuple[bool, bool]:
    """Whether a new layer's result is added to its input, and whether it is multiplied by data."""
    made, given = dependent(program, new), dependent(program, data)
    added = multiplied = False
    for eqn in program.equations:
        if len(eqn.ins) != 2 or not all(map(given.of, eqn.ins)):
            continue
        both = {made.of(v) for v in eqn.ins} == {True, False}
        added |= both and eqn.name in ("add", "add_any", "sub")
        multiplied |= both and eqn.name == "mul"
    return added, multiplied


def _normalises(program: Program) -> bool:
    """Whether the root of a sum or a mean is taken, as norms do."""
    sums: set[int] = set()
    for eqn in program.equations:
        known = traits(eqn)
        follows = known.elementwise or known.move == "whole"
        if eqn.name == "reduce_sum" or (follows and any(id(v) in sums for v in eqn.ins)):
            if eqn.name in ("sqrt", "rsqrt", "pow"):
                return True
            sums.update(id(v) for v in eqn.outs)
    return False
