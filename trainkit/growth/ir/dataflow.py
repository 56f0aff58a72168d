"""The driver of forward dataflow analysis, through loops and branches too.

The facts of an analysis (is a value 0, what is its sign, what does it depend on) are a lattice: a
top fact for unknown values, a join for a value that is one of two, and a transfer function for
equations, by the traits of their primitive. The driver enters the bodies of `scan`, `while` and
`cond`, and iterates until the facts of carries do not change. It enters no other bodies: results of
an unknown primitive get the top fact.

Programs are `ir.program.Program`s, or other objects with `ins`, `equations` and `outs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, TypeVar

from trainkit._core.compat import scan_counts
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Folder, Program

Fact = TypeVar("Fact")
LOOPS = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}


def _unchanged(fact: Any) -> Any:
    return fact


@dataclasses.dataclass(frozen=True)
class Lattice(Generic[Fact]):
    """A lattice of facts, and how they propagate.

    Attributes:
      top: the fact that holds for every value. Every chain of joins must be finite.
      join: the fact of a value that is one of two.
      constant: the fact of a constant operand; `None` if the operand is not a constant.
      transfer: (equation, facts of its operands) -> the fact of each of its results.
      row: fact of a stacked value -> fact of its rows, which a scan takes one by one.
      stacked: fact of each row -> fact of the stacked value.
      chosen: (fact of the value that selects a branch or ends a loop, fact of a result) -> the fact
        of the result.
      enters: whether to enter loops and branches; otherwise `transfer` handles them.
    """

    top: Fact
    join: Callable[[Fact, Fact], Fact]
    constant: Callable[[Any], Fact | None]
    transfer: Callable[[Any, list[Fact]], Fact]
    row: Callable[[Fact], Fact] = _unchanged
    stacked: Callable[[Fact], Fact] = _unchanged
    chosen: Callable[[Fact, Fact], Fact] = lambda decides, result: result
    enters: bool = True


@dataclasses.dataclass(frozen=True)
class Facts(Generic[Fact]):
    """The facts of all values of a program, including those in bodies."""

    lattice: Lattice[Fact]
    known: dict[int, tuple[Any, Fact]]  # id of a value -> the value, so that it stays, and its fact

    def of(self, v: Any) -> Fact:
        """The fact of a value; `top` for one that the program does not have."""
        constant = self.lattice.constant(v)
        if constant is not None:
            return constant
        return self.known[id(v)][1] if id(v) in self.known else self.lattice.top


def flat_bodies(equation: Any) -> list[Program]:
    """The flat bodies of a loop or branch of a flat program, the condition first."""
    params = [equation.params[key] for key in LOOPS[equation.name]]
    jaxprs = params[0] if equation.name == "cond" else params
    return [Folder().flatten(jaxpr) for jaxpr in jaxprs]


def run(
    program: Any,
    inputs: Sequence[Fact],
    lattice: Lattice[Fact],
    bodies: Callable[[Any], Sequence[Any]] = flat_bodies,
) -> Facts[Fact]:
    """Propagates facts of a program's inputs to all of its values.

    Args:
      program: a program, with its equations in order.
      inputs: a fact for each of `program.ins`.
      lattice: the lattice of facts.
      bodies: equation -> the bodies of a loop or branch, as programs.

    >>> import jax, jax.numpy as jnp
    >>> fn = lambda x, y: jax.lax.fori_loop(0, 3, lambda i, c: (c[0] + c[1], c[1]), (x, y))
    >>> program = Folder().flatten(jax.make_jaxpr(fn)(1.0, 1.0))
    >>> facts = run(program, [False, True], DEPENDS)
    >>> [facts.of(v) for v in program.outs]
    [True, True]
    """
    facts = Facts(lattice, {})
    _Walk(lattice, facts, bodies, {}).program(program, inputs)
    return facts


@dataclasses.dataclass(frozen=True)
class _Walk(Generic[Fact]):
    lattice: Lattice[Fact]
    facts: Facts[Fact]
    bodies: Callable[[Any], Sequence[Any]]
    entered: dict[int, Sequence[Any]]  # id of an equation -> its bodies

    def note(self, values: Sequence[Any], facts: Sequence[Fact]) -> None:
        for v, fact in zip(values, facts, strict=True):
            self.facts.known[id(v)] = v, fact

    def program(self, program: Any, inputs: Sequence[Fact]) -> list[Fact]:
        self.note(program.ins, inputs)
        for equation in program.equations:
            results = self.equation(equation, [self.facts.of(v) for v in equation.ins])
            self.note(equation.outs, results)
        return [self.facts.of(v) for v in program.outs]

    def equation(self, equation: Any, ins: list[Fact]) -> list[Fact]:
        if not self.lattice.enters or equation.name not in LOOPS:
            return [self.lattice.transfer(equation, ins)] * len(equation.outs)
        if id(equation) not in self.entered:
            self.entered[id(equation)] = self.bodies(equation)
        bodies = self.entered[id(equation)]
        if equation.name == "scan":
            return self.scan(equation, bodies[0], ins)
        if equation.name == "while":
            return self.loop(equation, bodies, ins)
        results = [self.program(body, ins[1:]) for body in bodies]
        joined = [self.joined(facts) for facts in zip(*results, strict=True)]
        return [self.lattice.chosen(ins[0], fact) for fact in joined]

    def joined(self, facts: Sequence[Fact]) -> Fact:
        first, *others = facts
        for fact in others:
            first = self.lattice.join(first, fact)
        return first

    def scan(self, equation: Any, body: Any, ins: list[Fact]) -> list[Fact]:
        consts, carried = scan_counts(equation.params)
        split = consts + carried
        rows = [self.lattice.row(fact) for fact in ins[split:]]

        def once(carry: list[Fact]) -> list[Fact]:
            return self.program(body, [*ins[:consts], *carry, *rows])

        results = self.fixpoint(once, ins[consts:split])[1]
        carry = results[:carried] if equation.params["length"] else ins[consts:split]
        return [*carry, *map(self.lattice.stacked, results[carried:])]

    def loop(self, equation: Any, bodies: Sequence[Any], ins: list[Fact]) -> list[Fact]:
        first = equation.params["cond_nconsts"]
        split = first + equation.params["body_nconsts"]
        test, body = bodies

        def once(carry: list[Fact]) -> list[Fact]:
            (decides,) = self.program(test, [*ins[:first], *carry])
            results = self.program(body, [*ins[first:split], *carry])
            return [self.lattice.chosen(decides, fact) for fact in results]

        return self.fixpoint(once, ins[split:])[0]

    def fixpoint(
        self, once: Callable[[list[Fact]], list[Fact]], carry: list[Fact]
    ) -> tuple[list[Fact], list[Fact]]:
        """Facts of the carry that hold in every iteration, and the results of an iteration."""
        while True:
            results = once(carry)
            pairs = zip(carry, results[: len(carry)], strict=True)
            joined = [self.lattice.join(a, b) for a, b in pairs]
            if joined == carry:
                return carry, results
            carry = joined


# -- which values depend on some inputs ---------------------------------------------------------

DEPENDS: Lattice[bool] = Lattice(
    top=True,
    join=lambda a, b: a or b,
    constant=lambda v: False if isinstance(v, Const) else None,
    transfer=lambda equation, facts: any(facts),
    chosen=lambda decides, result: decides or result,
)


def dependent(program: Program, inputs: Collection[int]) -> Facts[bool]:
    """Whether each value may depend on some inputs, which are given by their numbers."""
    return run(program, [i in inputs for i in range(len(program.ins))], DEPENDS)
