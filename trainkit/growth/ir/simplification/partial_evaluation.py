"""Partial evaluation: simplifies a program if some inputs are zero or identity matrices.

One forward pass replaces variables by what they are known to be (0, a constant, another variable)
and removes their equations. Known bounds remove a second ReLU. Parts of a value that are put
together again are the value. Loops are not entered. The result equals the original program for
every value of the other inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits, zero_result
from trainkit.growth.ir.program import Equation, Fresh, Program, live
from trainkit.growth.ir.simplification.clips import Bounds, Clips
from trainkit.growth.ir.simplification.evaluation import evaluated, uniform
from trainkit.growth.ir.simplification.identities import (
    EYE,
    EYES,
    MINUS_ONE,
    UNIT,
    ZERO,
    Eye,
    EyeBlock,
    Supposition,
    blocks,
    centred,
    is_kept_by,
    passed,
    product_with,
    shape_of,
)
from trainkit.growth.ir.simplification.masks import Masks
from trainkit.growth.ir.simplification.opened_loops import CONSTANT, ROW
from trainkit.growth.ir.simplification.parts import Parts
from trainkit.growth.ir.simplification.turns import Reshapes, Turns
from trainkit.growth.ir.simplification.unit_lengths import UnitLengths

Supposed = Mapping[int, Supposition]  # number of an input of the program -> what it is
_SUMS = ("add", "add_any", "sub")
Joined = dict[int, tuple[Equation, list[Any]]]  # variable -> the concatenation or pad it comes from


def reduced(
    program: Program,
    supposed: Supposed,
    keep_eyes: bool = False,
    clipped: Mapping[int, Bounds] | None = None,
    merged: bool = True,
) -> Program:
    """The simplified program under assumptions on its inputs.

    Args:
      program: a flat program.
      supposed: number of an input -> what it is; see `identities.Supposition`.
      clipped: number of an input -> bounds to which it was clipped before; see `clips.clips`.
      keep_eyes: whether products with identity matrices stay. An `EyeBlock` is then the square
        matrix without the rows of zeros, and the product is with the part that it takes.
      merged: whether a part of a value that is taken again is the first one. The parts in front of
        and behind a product with an identity matrix are two, if the product stays.
    """
    # Variable -> its replacement: another variable, a constant, ZERO or an Eye.
    stands = {
        id(v): _replacement(v, i, supposed[i]) for i, v in enumerate(program.ins) if i in supposed
    }
    joined: Joined = {}
    kept: list[Equation] = []
    limits = Clips({id(program.ins[i]): known for i, known in (clipped or {}).items()})
    views = Parts(merged), Masks(), Turns(keep_eyes), Reshapes(), UnitLengths(), limits
    matrices = list(program.ins)
    inputs = {id(v) for v in program.ins}

    def now(v: Any) -> Any:
        return v if isinstance(v, Const) else stands.get(id(v), v)

    def kept_as(v: Any, old: Any) -> Any:
        """An operand that must stay: the parameter, or zeros where a computed value is 0."""
        if isinstance(v, Eye):
            return program.ins[v.place] if v.inside is None else v.inside
        if v is not ZERO:
            return v
        return old if id(old) in inputs else uniform(old.aval, 0.0)

    for eqn in program.equations:
        ins = [now(v) for v in eqn.ins]
        if ZERO in ins and zero_result(eqn, [_is_zero(v) for v in ins]):
            stands.update((id(v), ZERO) for v in eqn.outs)
            continue
        if (inside := _entered(eqn, ins)) is not None:
            stands[id(eqn.outs[0])] = inside
            kept.append(Equation(eqn.raw, list(map(kept_as, ins, eqn.ins)), eqn.outs, eqn.calls))
            continue
        result = taken = _passed(eqn, ins, joined)
        if keep_eyes and taken is not None:
            limits.put(eqn.outs[0], limits.of(taken))
            matrix = _matrix(ins[1], program.ins, matrices)
            kept.append(Equation(centred(eqn).raw, [taken, matrix], eqn.outs, eqn.calls))
            continue
        if result is None:
            result = _simplified(eqn, ins) or (None if keep_eyes else _masked(eqn, ins))
        for view in views:
            result = view.equal(eqn, ins) if result is None else result
        values = evaluated(eqn, ins) if result is None else [result]
        if values is not None:
            stands.update(zip(map(id, eqn.outs), values, strict=False))
            continue
        for view in views:
            view.add(eqn, ins)
        if eqn.name in ("concatenate", "pad"):
            joined[id(eqn.outs[0])] = eqn, ins
        ins = [kept_as(v, old) for v, old in zip(ins, eqn.ins, strict=True)]
        kept.append(Equation(eqn.raw, ins, eqn.outs, eqn.calls))
    outs = [kept_as(now(v), v) for v in program.outs]
    return Program(matrices, live(kept, outs), outs)


def _entered(eqn: Equation, ins: list[Any]) -> Eye | None:
    """What an identity matrix is in the body of a loop that it is an operand of."""
    if not ins or not isinstance(ins[0], Eye) or isinstance(ins[0].kind, EyeBlock):
        return None
    within = {(CONSTANT, EYE): EYE, (CONSTANT, EYES): EYES, (ROW, EYES): EYE}
    kind = within.get((eqn.name, ins[0].kind))
    return None if kind is None else Eye(ins[0].place, kind, eqn.outs[0])


def _replacement(v: Any, place: int, what: Supposition) -> Any:
    """What stands for an input under an assumption."""
    if what == ZERO:
        return ZERO
    value = {UNIT: 1.0, MINUS_ONE: -1.0}.get(what) if isinstance(what, str) else None
    return Eye(place, what) if value is None else uniform(v.aval, value)


def _matrix(eye: Eye, inputs: list[Any], matrices: list[Any]) -> Any:
    """The variable of an identity matrix, which is square in `matrices` from now on."""
    if isinstance(eye.kind, EyeBlock) and matrices[eye.place] is inputs[eye.place]:
        matrices[eye.place] = _block(inputs[eye.place], eye.kind)
    return matrices[eye.place] if eye.inside is None else eye.inside


def _block(v: Any, block: EyeBlock) -> Fresh:
    """A variable for the rows of a matrix that are an identity."""
    shape = shape_of(v)
    return Fresh(v.aval.update(shape=(*shape[:-2], block.size, shape[-1])))


def _passed(eqn: Equation, ins: list[Any], joined: Joined) -> Any:
    """x of a product of x with an identity matrix, or the part of x that it takes; or `None`."""
    matrix = ins[1] if len(ins) == 2 else None
    if not isinstance(matrix, Eye) or _supposed(ins[0]) or not product_with(eqn, matrix.kind):
        return None
    whole = passed(eqn, ins[0], lambda v: joined.get(id(v)))
    if not isinstance(matrix.kind, EyeBlock) or whole is None:
        return whole
    concatenation, parts = joined.get(id(whole), (None, []))
    if concatenation is None or concatenation.name != "concatenate":
        return None
    for block, part in zip(blocks(eqn, concatenation), parts, strict=False):
        if block == matrix.kind and not _supposed(part) and not isinstance(part, Const):
            return part
    return None


def _supposed(v: Any) -> bool:
    return isinstance(v, str | Eye)


def _is_zero(v: Any) -> bool:
    return v is ZERO or (isinstance(v, Const) and v.is_zero)


def _simplified(eqn: Equation, ins: list[Any]) -> Any:
    """The variable or constant that equals an equation's result, or `None`."""
    name = eqn.name
    known = _known(eqn, ins) if len(eqn.outs) == 1 else None
    if known is not None:
        return known
    if name in _SUMS:
        for i in (0, 1) if name != "sub" else (0,):
            if _is_zero(ins[1 - i]) and _whole(eqn, i):
                return ins[i]
    if traits(eqn).same and isinstance(ins[0], Eye):
        return ins[0]
    if name == "select_n" and all(v is ins[1] for v in ins[1:]):
        return ins[1]  # every choice is the same
    if name == "select_n" and isinstance(ins[0], Const) and ins[0].uniform is not None:
        return ins[1 + int(ins[0].uniform)]
    if name == "concatenate":
        alone = next((i for i in range(len(ins)) if _whole(eqn, i)), None)
        return None if alone is None else ins[alone]  # all others have no entries
    return None


def _masked(eqn: Equation, ins: list[Any]) -> Eye | None:
    """An identity matrix that a mask or a factor of 1 leaves as it is."""
    for i, v in enumerate(ins):
        if isinstance(v, Eye) and v.kind in (EYE, EYES) and is_kept_by(eqn, ins, i):
            return v
    return None


def _known(eqn: Equation, ins: list[Any]) -> Any:
    """The result by f(0), c + 0 = c, 1 − 1 = 0, √1 = 1 or x · 1 = x, or `None`."""
    name = eqn.name
    number = [v.uniform if isinstance(v, Const) else None for v in ins]
    trait = traits(eqn)
    if trait.at_zero is not None and ins[0] is ZERO:
        return _constant(eqn, trait.at_zero)
    same = trait.chooses or name == "convert_element_type"
    if number and number[0] is not None and (same or (_is_root(name) and number[0] == 1)):
        return _constant(eqn, number[0])
    if name in ("add", "add_any"):
        for i, v in enumerate(ins):
            if v is ZERO and number[1 - i] is not None:
                return _constant(eqn, number[1 - i])
    if name in _SUMS and None not in number:
        a, b = (np.asarray(v).astype(eqn.outs[0].aval.dtype) for v in number)
        total = a - b if name == "sub" else a + b
        return _constant(eqn, total) if total else ZERO
    if name in ("mul", "div"):
        for i in (0, 1) if name == "mul" else (0,):
            if number[1 - i] is not None and number[1 - i] == 1 and _whole(eqn, i):
                return ins[i]
    return None


def _is_root(name: str) -> bool:
    return name in ("sqrt", "rsqrt", "cbrt")


def _constant(eqn: Equation, value: Any) -> Const:
    return uniform(eqn.outs[0].aval, value)


def _whole(eqn: Equation, operand: int) -> bool:
    return shape_of(eqn.outs[0]) == shape_of(eqn.raw.invars[operand])
