"""Partial evaluation: simplifies a program if some inputs are zero or identity matrices.

One forward pass replaces variables by what they are known to be (0, a constant, another variable)
and removes their equations. Known bounds remove a second ReLU. Parts of a value that are put
together again are the value. Loops are not entered. The result equals the original program for
every value of the other inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits, zero_result
from trainkit.growth.ir.program import Equation, Program, live
from trainkit.growth.ir.simplification.masks import Masks
from trainkit.growth.ir.simplification.parts import Parts

Shape = tuple[int, ...]
Supposed = Mapping[int, str]  # number of an input of the program -> "zero", "eye" or "eyes"
ZERO, EYE, EYES = "zero", "eye", "eyes"


class Eye(NamedTuple):
    """An input that is assumed to be an identity matrix (EYES: one for each leading index)."""

    place: int
    kind: str


def reduced(program: Program, supposed: Supposed, keep_eyes: bool = False) -> Program:
    """The simplified program under assumptions on its inputs.

    Args:
      program: a flat program.
      supposed: number of an input -> "zero", "eye" or "eyes".
      keep_eyes: whether products with identity matrices stay.
    """
    stands: dict[int, Any] = {}  # variable -> its replacement: another variable, ZERO or an Eye
    bounds: dict[int, dict[str, float]] = {}  # variable -> the bounds to which it was clipped
    for place, what in supposed.items():
        stands[id(program.ins[place])] = ZERO if what == ZERO else Eye(place, what)
    kept: list[Equation] = []
    views = Parts(), Masks()

    def now(v: Any) -> Any:
        return v if isinstance(v, Const) else stands.get(id(v), v)

    for eqn in program.equations:
        ins = [now(v) for v in eqn.ins]
        if ZERO in ins and zero_result(eqn, [_is_zero(v) for v in ins]):
            stands.update((id(v), ZERO) for v in eqn.outs)
            continue
        result = _simplified(eqn, ins, bounds)
        for view in views:
            result = view.rejoined(eqn, ins) if result is None else result
        if keep_eyes and result is ins[0] and len(ins) == 2 and isinstance(ins[1], Eye):
            bounds[id(eqn.outs[0])] = bounds.get(id(ins[0]), {})
            matrix = program.ins[ins[1].place]
            kept.append(Equation(eqn.raw, [ins[0], matrix], eqn.outs, eqn.calls))
            continue
        if result is not None:
            stands[id(eqn.outs[0])] = result
            continue
        known = dict(bounds.get(id(ins[0]), {})) if ins else {}
        limit = _limit(eqn, ins)
        if limit is not None:
            # min(max(x, 0), 6) is still at least 0.
            keep = known if _ordered(known, eqn, limit) else {}
            bounds[id(eqn.outs[0])] = {**keep, eqn.name: limit}
        elif known and len(eqn.outs) == 1 and traits(eqn).chooses:
            bounds[id(eqn.outs[0])] = known
        for view in views:
            view.add(eqn, ins)
        # An operand that must stay is the parameter itself.
        ins = [old if _supposed(v) else v for v, old in zip(ins, eqn.ins, strict=True)]
        kept.append(Equation(eqn.raw, ins, eqn.outs, eqn.calls))
    outs = [
        old if _supposed(v) else v
        for v, old in zip(map(now, program.outs), program.outs, strict=True)
    ]
    return Program(program.ins, live(kept, outs), outs)


def _supposed(v: Any) -> bool:
    return isinstance(v, str | Eye)


def _is_zero(v: Any) -> bool:
    return v is ZERO or (isinstance(v, Const) and v.is_zero)


def _simplified(eqn: Equation, ins: list[Any], bounds: Mapping[int, Mapping[str, float]]) -> Any:
    """The variable or constant that equals an equation's result, or `None`."""
    name = eqn.name
    known = _known(eqn, ins) if len(eqn.outs) == 1 else None
    if known is not None:
        return known
    if name in ("add", "add_any", "sub"):
        for i in (0, 1) if name != "sub" else (0,):
            if ins[1 - i] is ZERO and _whole(eqn, i):
                return ins[i]
    if traits(eqn).same and isinstance(ins[0], Eye):
        return ins[0]
    if name == "select_n" and all(v is ins[1] for v in ins[1:]):
        return ins[1]  # every choice is the same
    if any(_supposed(v) for v in ins[:1]):
        return None
    if name == "dot_general" and isinstance(ins[1], Eye):
        (contracted, _), batch = eqn.params["dimension_numbers"]
        last = (len(shape_of(eqn.raw.invars[0])) - 1,)
        first = tuple(range(len(shape_of(eqn.raw.invars[1])) - 2))
        in_place = tuple(map(tuple, batch)) == (first, first)  # the result has the axes of ins[0]
        if in_place and contracted == last and bool(first) == (ins[1].kind == EYES):
            return ins[0]
    if name == "conv_general_dilated" and isinstance(ins[1], Eye) and ins[1].kind == EYE:
        return ins[0] if _is_centred(eqn) else None
    limit = _limit(eqn, ins)
    if limit is not None and bounds.get(id(ins[0]), {}).get(name) == limit:
        return ins[0]
    return None


def _known(eqn: Equation, ins: list[Any]) -> Any:
    """The result by f(0), c + 0 = c or x · 1 = x, or `None`."""
    name = eqn.name
    uniform = [v.uniform if isinstance(v, Const) else None for v in ins]
    trait = traits(eqn)
    if trait.at_zero is not None and ins[0] is ZERO:
        return _constant(eqn, trait.at_zero)
    if uniform and uniform[0] is not None and (trait.chooses or name == "convert_element_type"):
        return _constant(eqn, uniform[0])
    if name in ("add", "add_any"):
        for i, v in enumerate(ins):
            if v is ZERO and uniform[1 - i] is not None:
                return _constant(eqn, uniform[1 - i])
    if name in ("mul", "div"):
        for i in (0, 1) if name == "mul" else (0,):
            if uniform[1 - i] is not None and uniform[1 - i] == 1 and _whole(eqn, i):
                return ins[i]
    return None


def _constant(eqn: Equation, value: Any) -> Const:
    aval = eqn.outs[0].aval
    scalar = np.asarray(value).astype(aval.dtype)
    key = ("uniform", str(aval.dtype), tuple(aval.shape), scalar.tobytes())
    return Const(aval.shape, aval.dtype, key, lambda: None, scalar)


def _whole(eqn: Equation, operand: int) -> bool:
    return shape_of(eqn.outs[0]) == shape_of(eqn.raw.invars[operand])


def shape_of(v: Any) -> Shape:
    return tuple(v.aval.shape)


def _is_centred(eqn: Equation) -> bool:
    """Whether a convolution with an identity kernel (1 in the middle) is the identity.

    The kernel's channels are its last two dimensions, where `depth.identity` puts the identity.
    """
    params, kernel = eqn.params, shape_of(eqn.raw.invars[1])
    lhs, rhs, out = params["dimension_numbers"]
    middle = [(kernel[d] // 2, kernel[d] // 2) for d in rhs[2:]]
    undilated = {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
    ungrouped = params["feature_group_count"] == 1 == params["batch_group_count"]
    return (
        tuple(rhs[:2]) == (len(kernel) - 1, len(kernel) - 2)
        and tuple(lhs) == tuple(out)
        and all(kernel[d] % 2 for d in rhs[2:])
        and [tuple(pair) for pair in params["padding"]] == middle
        and set(params["window_strides"]) <= {1}
        and undilated
        and ungrouped
    )


def _limit(eqn: Equation, ins: list[Any]) -> float | None:
    """c of max(x, c) or min(x, c), which are idempotent (ReLU is one of them), or `None`."""
    if eqn.name not in ("max", "min") or not isinstance(ins[1], Const) or isinstance(ins[0], Const):
        return None
    uniform = ins[1].uniform
    return None if uniform is None or _supposed(ins[0]) else float(uniform)


def _ordered(known: Mapping[str, float], eqn: Equation, limit: float) -> bool:
    """Whether the known opposite bound still holds after this one."""
    if eqn.name == "min":
        return known.get("max", -np.inf) <= limit
    return known.get("min", np.inf) >= limit
