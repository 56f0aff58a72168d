"""Identity layers: assumptions on parameters under which a new layer is an identity.

A new layer is an identity if its output projections are zero (residual networks), or if it is an
identity matrix between ReLUs (plain networks). The big program is simplified under an assumption
that some parameters are zero, one or identity matrices. If the result is, equation for equation,
the program of the small model, this is a proof for every input. Shapes are enough; nothing is run.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from trainkit.growth.depth.pass_through import passing
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Equation, Fresh, Program
from trainkit.growth.ir.simplification.identities import (
    EYE,
    EYE_FIRST,
    EYES,
    ZERO,
    Shape,
    Supposition,
    identity_operands,
    is_kept_by,
    product_with,
)
from trainkit.growth.ir.simplification.opened_loops import CONSTANT, RESULTS, ROW, marker
from trainkit.growth.ir.simplification.partial_evaluation import reduced


def choices(
    program: Program,
    shapes: Sequence[Shape],
    new: Collection[int],
    free: Collection[int],
    nearest: Mapping[int, str],
    old: Collection[int] = (),
) -> Iterator[dict[int, Supposition]]:
    """Different assumptions under which new layers may be identities, the likeliest first.

    Args:
      program: the big program.
      shapes: the shapes of its inputs.
      new: numbers of the inputs that are parameters of new layers.
      free: those of them that may be set.
      nearest: those of them that end residual branches, and what they have to be; see
        `ir.zero_analysis.nearest_zeros`.
      old: numbers of the inputs that are parameters of old layers.
    """
    tried: list[dict[int, Supposition]] = []
    for chosen in _assumptions(program, shapes, new, free, nearest, old):
        if chosen not in tried:
            tried.append(chosen)
            yield chosen


def _assumptions(
    program: Program,
    shapes: Sequence[Shape],
    new: Collection[int],
    free: Collection[int],
    nearest: Mapping[int, str],
    old: Collection[int],
) -> Iterator[dict[int, Supposition]]:
    order = list(dict.fromkeys(i for i in _last_used_first(program) if i in free))
    zeros: dict[int, Supposition] = {i: nearest[i] for i in order if i in nearest}
    yield zeros
    matrices = _matrices(program)
    eyes: dict[int, Supposition] = {i: matrices.get(i, ZERO) for i in order}
    yield eyes
    for last, late in itertools.product((False, True), repeat=2):
        found = passing(program, new, free, old, last=last, late=late)
        if found is not None:
            yield found
    greedy = _greedy(program, order)
    yield greedy
    # Residual blocks and plain layers in one model.
    for zero in (zeros, greedy) if greedy != zeros else (zeros,):
        alive = used(reduced(program, zero))
        yield {**{i: what for i, what in eyes.items() if i in alive}, **zero}


def _matrices(program: Program) -> dict[int, Supposition]:
    """The inputs that something is multiplied by, so that identity matrices would change nothing.

    One for each member in an ensemble, under `jax.vmap`.
    """
    number = {id(v): i for i, v in enumerate(program.ins)}
    found: dict[int, Supposition] = {}
    stacked: set[int] = set()  # one in each iteration of a loop
    for eqn in program.equations:
        if (traits(eqn).same or eqn.name == ROW) and id(eqn.ins[0]) in number:
            number[id(eqn.outs[0])] = number[id(eqn.ins[0])]
            stacked |= {id(eqn.outs[0])} if eqn.name == ROW or id(eqn.ins[0]) in stacked else set()
        for i, v in enumerate(eqn.ins):
            if id(v) in number and is_kept_by(eqn, eqn.ins, i):
                number[id(eqn.outs[0])] = number[id(v)]
        for i, what in identity_operands(eqn):
            place = number.get(id(eqn.ins[i]))
            if place is not None:
                found.setdefault(place, EYES if id(eqn.ins[i]) in stacked else what)
    return found


def _greedy(program: Program, order: Sequence[int]) -> dict[int, Supposition]:
    """Parameters that are set to zero one after another, if that removes equations."""
    greedy: dict[int, Supposition] = {}
    left = reduced(program, {})
    still = used(left)
    for i in order:
        if i not in still:
            continue  # already unused because of earlier zeros
        less = reduced(left, {i: ZERO})
        if len(less.equations) < len(left.equations):
            greedy, left, still = {**greedy, i: ZERO}, less, used(less)
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
    pair: tuple[Program, Program], big: Program, eyes: Sequence[int], old: Mapping[int, int]
) -> tuple[Program, list[Shape]] | None:
    """The small program with products with identity matrices inserted, as in the big one.

    A new layer that is an identity matrix at the small widths then grows like any other layer.

    Args:
      pair: the simplified programs, which are equal equation for equation.
      big: the simplified big program, which still has products with identity matrices.
      eyes: numbers of the inputs of `big` that are identity matrices.
      old: number of an input of `small` -> its number in `big`.

    Returns:
      The program, with one more input for each identity matrix, and the shapes of these inputs;
      `None` if a product does not keep the axes of the value in their places.
    """
    small, alike = pair
    twins = {
        id(b.outs[0]): a for a, b in zip(small.equations, alike.equations, strict=True) if b.outs
    }
    loops = {
        id(b.params["loop"]): a.params["loop"]
        for a, b in zip(small.equations, alike.equations, strict=True)
        if a.name == RESULTS
    }
    # Variable of the big program that is an identity matrix -> its input, and the loops around it.
    eye: dict[int, tuple[int, list[Equation]]] = {id(big.ins[i]): (i, []) for i in eyes}
    matrices: dict[int, Fresh] = {}
    # Variable of the big program -> variable of the small one.
    now: dict[int, Any] = {id(big.ins[j]): small.ins[i] for i, j in old.items()}
    equations = []
    for theirs in big.equations:
        if theirs.name in (CONSTANT, ROW) and id(theirs.ins[0]) in eye:
            place, around = eye[id(theirs.ins[0])]
            eye[id(theirs.outs[0])] = place, [*around, theirs]
            continue
        if len(theirs.ins) != 2 or id(theirs.ins[1]) not in eye:
            mine = twins.get(id(theirs.outs[0]))
            if mine is None:
                return None
            ins = [
                now.get(id(b), a) if not isinstance(b, Const) else a
                for a, b in zip(mine.ins, theirs.ins, strict=True)
            ]
            equations.append(Equation(mine.raw, ins, mine.outs, mine.calls))
            now |= {id(b): a for a, b in zip(mine.outs, theirs.outs, strict=True)}
            continue
        if not any(product_with(theirs, what) for what in (EYE, EYES, EYE_FIRST)):
            return None
        value = now[id(theirs.ins[0])]
        place, around = eye[id(theirs.ins[1])]
        if id(theirs.ins[1]) not in now:
            if place in matrices:
                return None  # it enters several loops
            entering, inner = _identity_input(theirs, value, around, loops)
            matrices[place] = entering[0].ins[0] if entering else inner
            equations += entering
            now[id(theirs.ins[1])] = inner
        out = Fresh(value.aval)
        operands = [value, now[id(theirs.ins[1])]]
        equations.append(Equation(theirs.raw, operands, [out], theirs.calls))
        now[id(theirs.outs[0])] = out
    outs = [
        a if isinstance(b, Const) else now.get(id(b), a)
        for a, b in zip(small.outs, big.outs, strict=True)
    ]
    shapes = [tuple(matrices[i].aval.shape) for i in eyes]
    return Program([*small.ins, *(matrices[i] for i in eyes)], equations, outs), shapes


def _identity_input(
    theirs: Equation, value: Any, around: Sequence[Equation], loops: Mapping[int, Equation]
) -> tuple[list[Equation], Fresh]:
    """The identity matrix of a product in the small program, and the markers that it passes.

    Args:
      theirs: the product in the big program.
      value: what the matrix is multiplied by in the small one.
      around: the markers that the matrix passes in the big program, the outermost loop first.
      loops: loop of the big program, by id -> loop of the small one.
    """
    wide: Any = theirs.raw.invars[1].aval
    if theirs.name == "dot_general":
        size = value.aval.shape[-1]
        lead = len(wide.shape) - 2  # an identity for each member of an ensemble
        shape = (*value.aval.shape[:lead], size, size)
    else:
        dims = theirs.params["dimension_numbers"]
        size = value.aval.shape[dims.lhs_spec[1]]
        shape = tuple(size if d in dims.rhs_spec[:2] else n for d, n in enumerate(wide.shape))
    matrix = inner = Fresh(wide.update(shape=shape))
    entering: list[Equation] = []
    for step in reversed(around):
        rows = step.ins[0].aval.shape[:1] if step.name == ROW else ()
        outer = Fresh(wide.update(shape=(*rows, *matrix.aval.shape)))
        loop, which = loops[id(step.params["loop"])], step.params["number"]
        entering.insert(0, marker(loop, step.name, which, [outer], [matrix]))
        matrix = outer
    return entering, inner


def same_operands(small: Program, big: Program, old: Mapping[int, int]) -> bool:
    """Whether two programs with the same primitives also apply them to the same values.

    Args:
      small, big: two programs with the `same_equations`.
      old: number of an input of `small` -> its number in `big`.
    """
    now = {id(big.ins[j]): small.ins[i] for i, j in old.items()}

    def same(mine: Sequence[Any], theirs: Sequence[Any]) -> bool:
        return all(
            isinstance(a, Const) if isinstance(b, Const) else now.get(id(b)) is a
            for a, b in zip(mine, theirs, strict=True)
        )

    for mine, theirs in zip(small.equations, big.equations, strict=True):
        if not same(mine.ins, theirs.ins):
            return False
        now.update((id(b), a) for a, b in zip(mine.outs, theirs.outs, strict=True))
    return same(small.outs, big.outs)


def same_equations(a: Program, b: Program) -> bool:
    """Whether two programs have the same sequence of primitives, with equally many operands."""
    named = lambda program: [(eqn.name, len(eqn.ins)) for eqn in program.equations]
    return named(a) == named(b)
