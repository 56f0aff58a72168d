"""Normal form of products of three or more arrays: contracted in an order that ignores sizes.

`jnp.einsum` contracts in the cheapest order, which depends on the sizes, so that the programs of
two widths may differ. The value does not depend on the order.
"""

from __future__ import annotations

import string
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.compat import AnyJaxpr
from trainkit._core.jaxprs import at_line
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Folder, Program
from trainkit.growth.ir.source_lines import where

_STEPS = ("dot_general", "transpose", "reduce_sum")


def alike(small: Program, big: Program) -> bool:
    """Whether two programs have the same operations on the same operands, up to sizes."""
    places: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for place, program in zip(places, (small, big), strict=True):
        place.update({id(v): i for i, v in enumerate(program.ins)})
        for eqn in program.equations:
            place.update({id(v): len(place) + i for i, v in enumerate(eqn.outs)})

    def same(one: list, other: list) -> bool:
        return len(one) == len(other) and all(
            isinstance(a, Const) == isinstance(b, Const)
            and (isinstance(a, Const) or places[0][id(a)] == places[1][id(b)])
            for a, b in zip(one, other, strict=True)
        )

    return len(small.equations) == len(big.equations) and all(
        a.name == b.name and len(a.outs) == len(b.outs) and same(a.ins, b.ins)
        for a, b in zip(small.equations, big.equations, strict=True)
    )


def in_one_order(program: Program, folder: Folder) -> Program:
    """The program with each product of one source line contracted in a fixed order.

    Computed operands come first, in the order of their equations, and then inputs of the program.
    """
    uses = Counter(id(v) for e in program.equations for v in e.ins)
    uses.update({id(v): 2 for v in program.outs})  # a result is never an intermediate step
    producers = {id(e.outs[0]): e for e in program.equations if e.name in _STEPS}
    steps: set[int] = set()  # equations that are intermediate steps of a product
    for eqn in program.equations:
        if eqn.name in _STEPS:
            steps |= {id(producers[id(v)]) for v in eqn.ins if _inner(v, eqn, producers, uses)}
    order = {id(v): (1, i) for i, v in enumerate(program.ins)}
    for i, eqn in enumerate(program.equations):
        order.update({id(v): (0, i) for v in eqn.outs})
    kept: list[Equation] = []
    swapped: dict[int, Any] = {}
    for eqn in program.equations:
        if id(eqn) in steps:
            continue
        operands: list = []
        names: list[list[int]] = []
        result = None
        if eqn.name in _STEPS:
            result = _formula(eqn, producers, uses, _Names(), operands, names)
        if result is None or len(operands) < 3:
            kept += _tree(eqn, producers, steps)
            continue
        ranked = sorted(range(len(operands)), key=lambda i: order.get(id(operands[i]), (2, i)))
        operands, names = [operands[i] for i in ranked], [names[i] for i in ranked]
        new = _contracted(eqn, operands, names, result)
        if new is None:
            kept += _tree(eqn, producers, steps)
            continue
        (value,) = folder.run(at_line(new, eqn.raw), operands, kept, eqn.calls)
        swapped[id(eqn.outs[0])] = value
    current = lambda v: swapped.get(id(v), v)
    equations = [Equation(e.raw, [current(v) for v in e.ins], e.outs, e.calls) for e in kept]
    return Program(program.ins, equations, [current(v) for v in program.outs])


def _inner(v, eqn: Equation, producers: dict[int, Equation], uses: Counter) -> bool:
    """Whether an operand is an intermediate step of the product of an equation."""
    producer = producers.get(id(v))
    return producer is not None and uses[id(v)] == 1 and where(producer) == where(eqn)


def _tree(eqn: Equation, producers: dict[int, Equation], steps: set[int]) -> list[Equation]:
    """The unchanged equations of a product, intermediate steps first."""
    before = [e for v in eqn.ins if (e := producers.get(id(v))) is not None and id(e) in steps]
    return [*(e for step in before for e in _tree(step, producers, steps)), eqn]


class _Names:
    """A union-find of dimension names; contracted dimensions are joined."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def new(self) -> int:
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def root(self, i: int) -> int:
        while self.parent[i] != i:
            i = self.parent[i]
        return i


def _formula(eqn, producers, uses, names: _Names, operands: list, operand_names: list) -> list[int]:
    """The dimension names of an equation's result; appends the operands of its product."""
    ins = []
    for v in eqn.ins:
        if _inner(v, eqn, producers, uses):
            ins.append(_formula(producers[id(v)], producers, uses, names, operands, operand_names))
        else:
            ins.append([names.new() for _ in (v.shape if isinstance(v, Const) else v.aval.shape)])
            operands.append(v)
            operand_names.append(ins[-1])
    if eqn.name == "transpose":
        out = [ins[0][d] for d in eqn.params["permutation"]]
    elif eqn.name == "reduce_sum":
        out = [n for d, n in enumerate(ins[0]) if d not in eqn.params["axes"]]
    else:
        contracted, batch = eqn.params["dimension_numbers"]
        for i, j in [*zip(*contracted, strict=True), *zip(*batch, strict=True)]:
            names.parent[names.root(ins[0][i])] = names.root(ins[1][j])
        out = [ins[0][d] for d in batch[0]]
        for k, x in enumerate(ins):
            out += [n for d, n in enumerate(x) if d not in (*contracted[k], *batch[k])]
    for known in (out, *operand_names):
        known[:] = [names.root(n) for n in known]
    return out


def _contracted(
    eqn: Equation, operands: list, names: list[list[int]], result: list[int]
) -> AnyJaxpr | None:
    """The product as a separate program; `None` if it is not a plain product."""
    every = dict.fromkeys(n for x in names for n in x)
    letters = dict(zip(every, string.ascii_letters, strict=False))
    text = ["".join(letters.get(n, "?") for n in x) for x in (*names, result)]
    dtype = eqn.outs[0].aval.dtype
    structs = [
        jax.ShapeDtypeStruct(v.shape, v.dtype)
        if isinstance(v, Const)
        else jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
        for v in operands
    ]
    if any("?" in t or len(set(t)) < len(t) for t in text) or {s.dtype for s in structs} != {dtype}:
        return None

    def product(value, *others):
        have = text[0]
        for i, other in enumerate(others, 1):
            later = set("".join(text[i + 1 :]))
            kept = "".join(n for n in dict.fromkeys(have + text[i]) if n in later)
            kept = kept if i < len(others) else text[-1]
            value, have = jnp.einsum(f"{have},{text[i]}->{kept}", value, other), kept
        return value

    return jax.make_jaxpr(product)(*structs)
