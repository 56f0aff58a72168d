"""Pass-through analysis: values of new parameters under which new layers pass their input on.

The analysis has goals for values. A result should be what it is without the new layers: it
"passes". An equation turns this goal into goals for its operands. One summand passes and the other
is 0, or one factor passes and the other is 1, or a matrix is an identity. The first of these ways
that new parameters can reach is taken. If there is none, the equation belongs to an old layer, and
all its operands pass. This is a guess, which partial evaluation proves afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import Lattice, run
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Equation, Program
from trainkit.growth.ir.simplification.evaluation import evaluated, is_one
from trainkit.growth.ir.simplification.identities import (
    EYE,
    UNIT,
    ZERO,
    Supposition,
    blocks,
    is_kept_by,
    passed,
    product_with,
    shape_of,
)
from trainkit.growth.ir.simplification.ways import PASSES, Goals, ways_to_be_one, ways_to_pass
from trainkit.growth.ir.zero_analysis import zeros

T = TypeVar("T")
_Settings = frozenset[tuple[int, str]]  # numbers of inputs, and what they are set to


class _Fact(NamedTuple):
    """What new parameters can make of a value, and the inputs that are then set, with their values.

    Attributes:
      touched: whether it depends on parameters of new layers.
      data: whether it depends on inputs that are not parameters.
      weight: whether it depends on parameters of old layers alone.
      passes: whether it can pass.
      zero, unit: the inputs that make it 0, or 1; `None` if it cannot be.
      value: what it is, ZERO or a constant, and the inputs set then; `None` if unknown.
      fixed: numbers of inputs that make it independent of data; `None` if none are known.
      matrix: the number of the new parameter that it is, perhaps at another precision; −1 for none.
      besides: the inputs that are then set besides, as factors of the parameter.
    """

    touched: bool
    data: bool = False
    weight: bool = False
    passes: bool = False
    zero: _Settings | None = None
    unit: _Settings | None = None
    value: tuple[Any, _Settings] | None = None
    fixed: frozenset[int] | None = None
    matrix: int = -1
    besides: _Settings = frozenset()

    def inputs(self, goal: str) -> _Settings | None:
        """The inputs that are set if the value has a goal; `None` if it cannot have it."""
        if goal in (ZERO, UNIT):
            return self.zero if goal == ZERO else self.unit
        reached = self.passes if goal == PASSES else self.matrix >= 0
        return frozenset() if reached else None


_NEITHER = _Fact(touched=True)


def passing(
    program: Program,
    new: Collection[int],
    free: Collection[int],
    old: Collection[int] = (),
    *,
    last: bool = False,
    late: bool = False,
) -> dict[int, Supposition] | None:
    """Suppositions under which every result passes; `None` if none are found.

    Args:
      program: the flat program of the big model.
      new: the numbers of the inputs that are parameters of new layers.
      free: those of them that may be set.
      old: the numbers of the inputs that are parameters of old layers.
      last: whether the second of two summands or factors passes if both can, instead of the first.
      late: whether the part of a concatenation passes that is computed last (the stream, and not a
        skip connection), instead of the first one (the stream, and not what is made of it).

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> def layer(x, gain, bias, w):
    ...     return jax.nn.relu(jnp.concatenate([x, 2 * x], -1) @ w * gain + bias)
    >>> x, w = jnp.ones((2, 4)), jnp.ones((8, 4))
    >>> program = Folder().flatten(jax.make_jaxpr(layer)(x, x[0], x[0], w))
    >>> passing(program, {1, 2, 3}, {1, 2, 3})
    {2: 'zero', 1: 'unit', 3: EyeBlock(start=0, size=4)}
    """
    return _Passing(program, new, free, old, last, late).suppositions()


class _Passing:
    def __init__(
        self,
        program: Program,
        new: Collection[int],
        free: Collection[int],
        old: Collection[int],
        last: bool,
        late: bool,
    ):
        self.program, self.last, self.late = program, last, late
        self.nearest = zeros(program, free)
        self.producer = {id(v): eqn for eqn in program.equations for v in eqn.outs}
        self.place = {id(v): i for i, e in enumerate(program.equations) for v in e.outs}
        every = range(len(program.ins))
        inputs = [_Fact(False, i not in old, i in old, passes=True) for i in every]
        for i in new:
            may = i in free
            zero = frozenset({(i, ZERO)}) if may else None
            inputs[i] = _Fact(
                True,
                zero=zero,
                unit=frozenset({(i, UNIT)}) if may and _is_vector(program.ins[i]) else None,
                value=None if zero is None else (ZERO, zero),
                fixed=frozenset({i}) if may else frozenset(),
                matrix=i if may else -1,
            )
        self.facts = run(program, inputs, _lattice(self._fact))

    def suppositions(self) -> dict[int, Supposition] | None:
        """The suppositions from which the goal of every result follows; `None` if none do."""
        found: dict[int, Supposition] = {}
        stack: list[tuple[Any, Supposition]] = [(v, PASSES) for v in self.program.outs]
        if not all(self.facts.of(v).passes for v in self.program.outs):
            return None
        done: set[tuple[int, Supposition]] = set()
        # An explicit stack: programs are thousands of equations deep.
        while stack:
            v, goal = stack.pop()
            fact = self.facts.of(v)
            if (id(v), goal) in done or not fact.touched:
                continue
            done.add((id(v), goal))
            about: Iterable[tuple[int, Supposition]]
            if goal == ZERO:
                about = fact.zero or ()
            elif goal == UNIT and fact.value is not None and fact.value[1] == fact.unit:
                about = fact.unit
            elif fact.matrix >= 0:
                about = [(fact.matrix, goal), *fact.besides]
            else:
                stack.extend(self._next(self.producer[id(v)], str(goal)))
                continue
            if any(found.get(i, what) != what for i, what in about):
                return None  # one parameter would need two values
            found |= dict(about)
        return found

    def _next(self, eqn: Equation, goal: str) -> list[tuple[Any, Supposition]]:
        """Goals of the operands of an equation whose result has a goal that can be reached."""
        way = self._way(eqn, [self.facts.of(v) for v in eqn.ins], goal) or []
        goals: list[tuple[Any, Supposition]] = [(eqn.ins[i], what) for i, what in way]
        if (1, EYE) not in way or not product_with(eqn, EYE):
            return goals
        joined = self.producer.get(id(passed(eqn, eqn.ins[0], self._source)))
        if joined is None or joined.name != "concatenate":
            return goals
        # The matrix takes one part of a concatenation.
        size, places = shape_of(eqn.raw.invars[1])[-1], []
        for v, block in zip(joined.ins, blocks(eqn, joined), strict=False):
            if block.size == size and self.facts.of(v).passes and not isinstance(v, Const):
                places.append((self.place.get(id(v), -1), v, block))
        if not places:
            return goals
        _, part, block = (max if self.late else min)(places, key=lambda found: found[0])
        return [(part, PASSES), (eqn.ins[1], block)]

    def _source(self, v: Any) -> tuple[Equation, list[Any]] | None:
        eqn = self.producer.get(id(v))
        return (eqn, eqn.ins) if eqn is not None and eqn.name in ("concatenate", "pad") else None

    def _fact(self, eqn: Equation, facts: list[_Fact]) -> _Fact:
        data = any(fact.data for fact in facts)
        if not any(fact.touched for fact in facts):
            weight = not data and any(fact.weight for fact in facts)
            return _Fact(False, data, weight, passes=True)
        # What old weights are applied to is in the small model too, and must not become 0.
        of_old = any(fact.weight for fact in facts)
        nearest = self.nearest.of(eqn.outs[0])
        zero = None if of_old or nearest.distance == math.inf else nearest.inputs
        matrix, besides = _matrix(eqn, facts)
        value = _value(eqn, facts) if zero is None else (ZERO, zero)
        zero = value[1] if value is not None and value[0] is ZERO else zero
        return _Fact(
            touched=True,
            passes=self._way(eqn, facts, PASSES) is not None,
            zero=zero,
            unit=self._unit(eqn, facts, value),
            value=value,
            fixed=_union(_fixed(fact) for fact in facts) if zero is None else _numbers(zero),
            matrix=matrix,
            besides=besides,
        )

    def _unit(
        self, eqn: Equation, facts: Sequence[_Fact], value: tuple[Any, _Settings] | None
    ) -> _Settings | None:
        """The inputs that make every element 1; `value`: what the result can be."""
        way = self._way(eqn, facts, UNIT)
        if way is not None:
            return _union(facts[i].inputs(what) for i, what in way)
        return value[1] if value is not None and is_one(value[0]) else None

    def _way(self, eqn: Equation, facts: Sequence[_Fact], goal: str) -> Goals | None:
        """The first goals of the operands that can be reached; `None` if there are none."""
        ways = ways_to_pass(eqn, self.last) if goal == PASSES else ways_to_be_one(eqn)
        for way in ways:
            reached = all(facts[i].inputs(what) is not None for i, what in way)
            if reached and not (goal == PASSES and len(way) == 2 and _ends(facts, way)):
                return way
        return None


def _matrix(eqn: Equation, facts: Sequence[_Fact]) -> tuple[int, _Settings]:
    """The new parameter that a result is if that is an identity, and factors that are 1 then."""
    for i, fact in enumerate(facts):
        if fact.matrix < 0:
            continue
        if (traits(eqn).same and i == 0) or is_kept_by(eqn, eqn.ins, i):
            return fact.matrix, fact.besides
        if eqn.name == "mul" and (unit := facts[1 - i].unit) is not None and len(unit):
            return fact.matrix, fact.besides | unit
    return -1, frozenset()


def _value(eqn: Equation, facts: Sequence[_Fact]) -> tuple[Any, _Settings] | None:
    """What a result is, computed from what its operands can be: 1 of 2 · sigmoid(0)."""
    known = [fact.value for fact in facts if fact.value is not None]
    if len(known) < len(facts) or len(eqn.outs) != 1:
        return None
    results = evaluated(eqn, [value for value, _ in known])
    settings = frozenset().union(*(inputs for _, inputs in known))
    return None if results is None else (results[0], settings)


def _fixed(fact: _Fact) -> frozenset[int] | None:
    if fact.touched:
        return fact.fixed
    return None if fact.data else frozenset()


def _numbers(settings: _Settings) -> frozenset[int]:
    return frozenset(i for i, _ in settings)


def _union(sets: Iterable[frozenset[T] | None]) -> frozenset[T] | None:
    """The union of sets; `None` if one is unknown."""
    known = list(sets)
    return None if None in known else frozenset().union(*(s for s in known if s is not None))


def _ends(facts: Sequence[_Fact], way: Goals) -> bool:
    """Whether no data would pass: in x − mean(x), for example, the mean is 0 only if x is."""
    (passes, _), (rests, goal) = way
    fixed, inputs = _fixed(facts[passes]), facts[rests].inputs(goal)
    return goal != PASSES and fixed is not None and inputs is not None and fixed <= _numbers(inputs)


def _lattice(transfer: Any) -> Lattice[_Fact]:
    return Lattice(
        top=_NEITHER,
        join=lambda a, b: a if a == b else _NEITHER,
        constant=_constant,
        transfer=transfer,
        enters=False,
    )


def _constant(v: Any) -> _Fact | None:
    if not isinstance(v, Const):
        return None
    nothing: _Settings = frozenset()
    zero, unit = (nothing if holds else None for holds in (v.is_zero, is_one(v)))
    return _Fact(False, passes=True, zero=zero, unit=unit, value=(v, nothing))


def _is_vector(v: Any) -> bool:
    """Whether an input may be set to 1: it has one axis, or others of size 1."""
    return math.prod(v.aval.shape) == max(v.aval.shape, default=1)
