"""Identity layers: which parameters of a new layer must be what, for it to do nothing.

A new layer is an identity where its output projections are zero (residual networks), or where it
is an identity matrix between ReLUs (plain ones). Which of its parameters those are is found in the
program of the big model: it is reduced under the supposition that they are zero (or the identity),
and must then be, equation for equation, the program of the small model. That is a proof for every
input, from shapes alone: nothing is run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainkit.growth.program import FORWARDS_UNIFORM, Const, Equation, Fresh, Program
from trainkit.growth.zeroing import KEEPS_ZERO

Shape = tuple[int, ...]
Supposed = Mapping[int, str]  # number of an input of the program -> "zero" or "eye"
_ZERO, _EYE = "zero", "eye"


class _Eye(NamedTuple):
    """Stands for an input that is an identity matrix."""

    place: int


_MOVES = frozenset(
    ("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type")
    + ("stop_gradient", "slice")
)
_ONE_AT_ZERO = frozenset(("exp", "exp2", "cos", "cosh"))
_POOLS = frozenset(("reduce_max", "reduce_window_max", "reduce_min"))


def choices(
    program: Program, shapes: Sequence[Shape], new: Collection[int], nearest: Collection[int]
) -> Iterator[dict[int, str]]:
    """Suppositions that may make new layers identities, the likeliest first.

    Args:
      program: of the big model.
      shapes: of its inputs.
      new: those of its inputs that are parameters of new layers.
      nearest: those of them that end residual branches, as `zeroing` finds them.
    """
    order = list(dict.fromkeys(i for i in _last_used_first(program) if i in new))
    zeros = dict.fromkeys((i for i in order if i in nearest), _ZERO)
    yield zeros
    eyes = {i: _EYE if len(shapes[i]) > 1 else _ZERO for i in order}
    yield eyes
    greedy: dict[int, str] = {}
    left = len(reduced(program, {}).equations)
    for i in order:
        now = len(reduced(program, {**greedy, i: _ZERO}).equations)
        if now < left:
            greedy, left = {**greedy, i: _ZERO}, now
    yield greedy
    # Residual blocks and plain layers in one model.
    for zero in (zeros, greedy):
        alive = used(reduced(program, zero))
        yield {**{i: what for i, what in eyes.items() if i in alive}, **zero}


def used(program: Program) -> set[int]:
    """The numbers of the inputs that a program uses."""
    number = {id(v): i for i, v in enumerate(program.ins)}
    seen = [*program.outs, *(v for eqn in program.equations for v in eqn.ins)]
    return {number[id(v)] for v in seen if id(v) in number}


def _last_used_first(program: Program) -> Iterator[int]:
    number = {id(v): i for i, v in enumerate(program.ins)}
    for eqn in reversed(program.equations):
        yield from (number[id(v)] for v in eqn.ins if id(v) in number)


def reduced(program: Program, supposed: Supposed, keep_eyes: bool = False) -> Program:
    """The program that is left when some inputs are zero, or identity matrices.

    With `keep_eyes` products with identity matrices stay, but not what they make superfluous.
    """
    stands: dict[int, Any] = {}  # what a variable is: another variable, _ZERO or _EYE
    bounds: dict[int, dict[str, float]] = {}  # what a variable is known to be clipped to
    for place, what in supposed.items():
        stands[id(program.ins[place])] = _ZERO if what == _ZERO else _Eye(place)
    kept: list[Equation] = []

    def now(v: Any) -> Any:
        return v if isinstance(v, Const) else stands.get(id(v), v)

    for eqn in program.equations:
        ins = [now(v) for v in eqn.ins]
        if eqn.name == "split" and ins[0] is _ZERO:
            stands.update((id(v), _ZERO) for v in eqn.outs)
            continue
        found = _simplified(eqn, ins, bounds)
        if keep_eyes and found is ins[0] and len(ins) == 2 and isinstance(ins[1], _Eye):
            bounds[id(eqn.outs[0])] = bounds.get(id(ins[0]), {})
            matrix = program.ins[ins[1].place]
            kept.append(Equation(eqn.raw, [ins[0], matrix], eqn.outs, eqn.calls))
            continue
        if found is not None:
            stands[id(eqn.outs[0])] = found
            continue
        known = dict(bounds.get(id(ins[0]), {})) if ins else {}
        limit = _limit(eqn, ins)
        if limit is not None:
            # min(max(x, 0), 6) is still at least 0.
            keep = known if _ordered(known, eqn, limit) else {}
            bounds[id(eqn.outs[0])] = {**keep, eqn.name: limit}
        elif eqn.name in _MOVES | _POOLS and known:
            bounds[id(eqn.outs[0])] = known
        # A zero that stays is the parameter itself.
        ins = [old if _supposed(v) else v for v, old in zip(ins, eqn.ins, strict=True)]
        kept.append(Equation(eqn.raw, ins, eqn.outs, eqn.calls))
    outs = [
        old if _supposed(v) else v
        for v, old in zip(map(now, program.outs), program.outs, strict=True)
    ]
    return Program(program.ins, _live(kept, outs), outs)


def with_eyes(
    small: Program, big: Program, eyes: Sequence[int], old: Mapping[int, int]
) -> tuple[Program, list[Shape]]:
    """The small program with the identity matrices that the big one has, as further inputs.

    A layer that is the identity at the small widths is widened as any other, so that it may go from
    one width to another.

    Args:
      small: reduced.
      big: reduced, but with its products with identity matrices.
      eyes: which inputs of `big` these are.
      old: number of an input of `small` -> that of `big`.

    Returns:
      The program, with one more input for each, and their shapes.
    """
    number = {id(big.ins[i]): i for i in eyes}
    made: dict[int, Fresh] = {}
    # What a variable of the big program is in the small one.
    now: dict[int, Any] = {id(big.ins[j]): small.ins[i] for i, j in old.items()}
    equations = []
    left = iter(small.equations)
    for theirs in big.equations:
        place = number.get(id(theirs.ins[1])) if len(theirs.ins) == 2 else None
        if place is None:
            mine = next(left)
            ins = [
                now.get(id(b), a) if not isinstance(b, Const) else a
                for a, b in zip(mine.ins, theirs.ins, strict=True)
            ]
            equations.append(Equation(mine.raw, ins, mine.outs, mine.calls))
            now |= {id(b): a for a, b in zip(mine.outs, theirs.outs, strict=True)}
            continue
        value = now[id(theirs.ins[0])]
        wide: Any = theirs.raw.invars[1].aval
        if theirs.name == "dot_general":
            size = value.aval.shape[-1]
            shape = (size, size)
        else:
            dims = theirs.params["dimension_numbers"]
            size = value.aval.shape[dims.lhs_spec[1]]
            shape = tuple(size if d in dims.rhs_spec[:2] else n for d, n in enumerate(wide.shape))
        made[place] = Fresh(wide.update(shape=shape))
        out = Fresh(value.aval)
        equations.append(Equation(theirs.raw, [value, made[place]], [out], theirs.calls))
        now[id(theirs.outs[0])] = out
    outs = [
        a if isinstance(b, Const) else now.get(id(b), a)
        for a, b in zip(small.outs, big.outs, strict=True)
    ]
    shapes = [tuple(made[i].aval.shape) for i in eyes]
    return Program([*small.ins, *(made[i] for i in eyes)], equations, outs), shapes


def _live(equations: list[Equation], outs: list[Any]) -> list[Equation]:
    live = {id(v) for v in outs if not isinstance(v, Const)}
    left = []
    for eqn in reversed(equations):
        if eqn.raw.effects or any(id(v) in live for v in eqn.outs):
            left.append(eqn)
            live |= {id(v) for v in eqn.ins if not isinstance(v, Const)}
    return left[::-1]


def _supposed(v: Any) -> bool:
    return isinstance(v, str | _Eye)


def _is_zero(v: Any) -> bool:
    if v is _ZERO:
        return True
    return isinstance(v, Const) and v.uniform is not None and not np.any(v.uniform)


def _simplified(eqn: Equation, ins: list[Any], bounds: Mapping[int, Mapping[str, float]]) -> Any:
    """What an equation's result is without computing it, or `None`."""
    name = eqn.name
    known = _known(eqn, ins) if len(eqn.outs) == 1 else None
    if known is not None:
        return known
    if len(eqn.outs) == 1 and any(v is _ZERO for v in ins):
        zeros = [_is_zero(v) for v in ins]
        if name in KEEPS_ZERO and zeros[0]:
            return _ZERO
        if name in ("mul", "dot_general", "conv_general_dilated", "ragged_dot") and any(zeros):
            return _ZERO
        if name == "integer_pow" and eqn.params["y"] > 0:
            return _ZERO
        if name in ("max", "min", "concatenate", "pad", "stack") and all(zeros):
            return _ZERO
        if name == "select_n" and all(zeros[1:]):
            return _ZERO
        if name in ("add", "add_any", "sub"):
            if all(zeros):
                return _ZERO
            if zeros[0] and name != "sub" and _whole(eqn, 1):
                return ins[1]
            if zeros[1] and _whole(eqn, 0):
                return ins[0]
    if name == "convert_element_type" and isinstance(ins[0], _Eye):
        return ins[0]
    if any(_supposed(v) for v in ins[:1]):
        return None
    if name == "dot_general" and isinstance(ins[1], _Eye):
        (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
        if not batch and contracted == (len(_shape(eqn.raw.invars[0])) - 1,):
            return ins[0]
    if name == "conv_general_dilated" and isinstance(ins[1], _Eye) and _keeps_size(eqn):
        return ins[0]
    limit = _limit(eqn, ins)
    if limit is not None and bounds.get(id(ins[0]), {}).get(name) == limit:
        return ins[0]
    return None


def _known(eqn: Equation, ins: list[Any]) -> Any:
    """What follows from e⁰ = 1, c + 0 = c and x · 1 = x, or `None`."""
    name = eqn.name
    uniform = [v.uniform if isinstance(v, Const) else None for v in ins]
    if name in _ONE_AT_ZERO and ins[0] is _ZERO:
        return _constant(eqn, 1.0)
    if name in FORWARDS_UNIFORM and uniform[0] is not None:
        return _constant(eqn, uniform[0])
    if name in ("add", "add_any"):
        for i, v in enumerate(ins):
            if v is _ZERO and uniform[1 - i] is not None:
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
    return _shape(eqn.outs[0]) == _shape(eqn.raw.invars[operand])


def _shape(v: Any) -> Shape:
    return tuple(v.aval.shape)


def _keeps_size(eqn: Equation) -> bool:
    strides = set(eqn.params["window_strides"])
    kernel = _shape(eqn.raw.invars[1])
    odd = all(kernel[axis] % 2 for axis in eqn.params["dimension_numbers"].rhs_spec[2:])
    whole = _shape(eqn.outs[0]) == _shape(eqn.raw.invars[0])
    dilated = {*eqn.params["lhs_dilation"], *eqn.params["rhs_dilation"]} != {1}
    plain = eqn.params["feature_group_count"] == 1 == eqn.params["batch_group_count"]
    return strides == {1} and odd and whole and plain and not dilated


def _limit(eqn: Equation, ins: list[Any]) -> float | None:
    """c of max(x, c) and min(x, c), which do nothing the second time: ReLU is one of them."""
    if eqn.name not in ("max", "min") or not isinstance(ins[1], Const) or isinstance(ins[0], Const):
        return None
    uniform = ins[1].uniform
    return None if uniform is None or _supposed(ins[0]) else float(uniform)


def _ordered(known: Mapping[str, float], eqn: Equation, limit: float) -> bool:
    """Whether the bound on the other side outlives this one."""
    if eqn.name == "min":
        return known.get("max", -np.inf) <= limit
    return known.get("min", np.inf) >= limit


def _square(shape: Shape) -> bool:
    return len(shape) > 1 and shape[-1] == shape[-2]


def passes_on(
    body: Program, shapes: Sequence[Shape], new: Collection[int], nearest: Collection[int],
    carry: tuple[int, int],
) -> dict[int, str] | None:  # fmt: skip
    """What makes one turn of a loop do nothing: which rows of stacked inputs must be what.

    Args:
      carry: the numbers of constants and of carried values among the inputs.
    """
    start, count = carry
    for chosen in choices(body, shapes, new, nearest):
        if any(what == _EYE and not _square(shapes[i]) for i, what in chosen.items()):
            continue
        outs = reduced(body, chosen).outs[:count]
        if all(v is body.ins[start + i] for i, v in enumerate(outs)):
            return chosen
    return None


def same_equations(a: Program, b: Program) -> bool:
    """Whether two programs are one and the same but for sizes, as far as names tell."""
    return [eqn.name for eqn in a.equations] == [eqn.name for eqn in b.equations]


def identity_kernel(shape: Shape, dtype: Any) -> np.ndarray:
    """The identity of a dense [n, n] or convolution [..., n, n] kernel with odd sides.

    >>> identity_kernel((3, 1, 1), np.float32).ravel().tolist()
    [0.0, 1.0, 0.0]
    """
    out = np.zeros(shape, dtype)
    centre = tuple(size // 2 for size in shape[:-2])
    out[centre] = np.eye(shape[-1], dtype=dtype)
    return out
