"""Identity layers: which parameters of a new layer must be what, for it to do nothing.

A new layer is an identity where its output projections are zero (residual networks), or where it
is an identity matrix between ReLUs (plain ones). Which of its parameters those are is found in the
program of the big model: it is reduced under the supposition that they are zero (or the identity),
and must then be, equation for equation, the program of the small model. That is a proof for every
input, from shapes alone: nothing is run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.partial_evaluation import EYE, ZERO, Shape, reduced
from trainkit.growth.ir.program import Equation, Fresh, Program


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
    zeros = dict.fromkeys((i for i in order if i in nearest), ZERO)
    yield zeros
    eyes = {i: EYE if len(shapes[i]) > 1 else ZERO for i in order}
    yield eyes
    greedy = _greedy(program, order)
    yield greedy
    # Residual blocks and plain layers in one model.
    for zero in (zeros, greedy):
        alive = used(reduced(program, zero))
        yield {**{i: what for i, what in eyes.items() if i in alive}, **zero}


def _greedy(program: Program, order: Sequence[int]) -> dict[int, str]:
    """Zeros, one after the other, that each leave fewer equations."""
    greedy: dict[int, str] = {}
    left = reduced(program, {})
    for i in order:
        if i not in used(left):
            continue  # what earlier zeros have made superfluous
        less = reduced(program, {**greedy, i: ZERO})
        if len(less.equations) < len(left.equations):
            greedy, left = {**greedy, i: ZERO}, less
    return greedy


def used(program: Program) -> set[int]:
    """The numbers of the inputs that a program uses."""
    number = {id(v): i for i, v in enumerate(program.ins)}
    seen = [*program.outs, *(v for eqn in program.equations for v in eqn.ins)]
    return {number[id(v)] for v in seen if id(v) in number}


def _last_used_first(program: Program) -> Iterator[int]:
    number = {id(v): i for i, v in enumerate(program.ins)}
    for eqn in reversed(program.equations):
        yield from (number[id(v)] for v in eqn.ins if id(v) in number)


def with_identity_inputs(
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
    matrices: dict[int, Fresh] = {}
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
        matrices[place] = Fresh(wide.update(shape=shape))
        out = Fresh(value.aval)
        equations.append(Equation(theirs.raw, [value, matrices[place]], [out], theirs.calls))
        now[id(theirs.outs[0])] = out
    outs = [
        a if isinstance(b, Const) else now.get(id(b), a)
        for a, b in zip(small.outs, big.outs, strict=True)
    ]
    shapes = [tuple(matrices[i].aval.shape) for i in eyes]
    return Program([*small.ins, *(matrices[i] for i in eyes)], equations, outs), shapes


def _square(shape: Shape) -> bool:
    return len(shape) > 1 and shape[-1] == shape[-2]


def identity_iteration(
    body: Program, shapes: Sequence[Shape], new: Collection[int], nearest: Collection[int],
    same: Collection[int], carry: tuple[int, int],
) -> dict[int, str] | None:  # fmt: skip
    """What makes one iteration of a loop do nothing: which rows of stacked inputs must be what.

    Args:
      body, shapes, new, nearest: of the loop, as in `choices`.
      same: which inputs are rows of parameters as these are, so that they may be made identities.
      carry: the numbers of constants and of carried values among the inputs.
    """
    start, count = carry
    for chosen in choices(body, shapes, new, nearest):
        eyes = {i for i, what in chosen.items() if what == EYE}
        if not all(i in same and _square(shapes[i]) for i in eyes):
            continue
        outs = reduced(body, chosen).outs[:count]
        if all(v is body.ins[start + i] for i, v in enumerate(outs)):
            return chosen
    return None


def same_equations(a: Program, b: Program) -> bool:
    """Whether two programs are one and the same but for sizes, as far as names tell."""
    return [eqn.name for eqn in a.equations] == [eqn.name for eqn in b.equations]
