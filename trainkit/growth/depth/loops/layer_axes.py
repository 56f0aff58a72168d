"""Layer axes: inputs that a loop over layers runs over, and those that have more layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainkit._core.compat import scan_counts
from trainkit.growth.depth.alignment import fewer, order
from trainkit.growth.depth.flat_model import FlatModel
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import Facts, Lattice, run
from trainkit.growth.ir.primitives import traits, zero_result
from trainkit.growth.ir.program import Program

Stacks = Mapping[str, tuple[int, list[tuple[int, bool]]]]  # leaf -> layer axis, and its rows


class Stacked(NamedTuple):
    """A value that is computed from one input, layer by layer.

    Attributes:
      input: the number of the input.
      axes: for each dimension of the value, the dimension of the input.
      zero: whether a layer of it is 0 if that layer of the input is 0.
      same: whether it is the input, up to the order of dimensions.
    """

    input: int
    axes: tuple[int, ...]
    zero: bool
    same: bool


class Row(NamedTuple):
    """The slice of a stacked leaf in one loop iteration, and how it is computed from the leaf."""

    name: str
    fact: Stacked

    @property
    def keeps_identity(self) -> bool:
        """Whether it is an identity matrix if the row of the leaf is one."""
        return self.fact.same and (self.unturned or len(self.fact.axes) == 3)

    @property
    def unturned(self) -> bool:
        """Whether its axes are in the order of the leaf's."""
        return list(self.fact.axes[1:]) == sorted(self.fact.axes[1:])


_NONE = Stacked(-1, (), False, False)  # any other value


def stacked(program: Program) -> Facts[Stacked]:
    """The values that are computed from one input, layer by layer."""
    inputs = [Stacked(i, tuple(range(v.aval.ndim)), True, True) for i, v in enumerate(program.ins)]
    return run(program, inputs, _STACKED)


def _transfer(equation: Any, facts: list[Stacked]) -> Stacked:
    known = traits(equation)
    if equation.name == "transpose" and facts[0] != _NONE:
        axes = facts[0].axes
        return facts[0]._replace(axes=tuple(axes[p] for p in equation.params["permutation"]))
    followed = [(v, fact) for v, fact in zip(equation.ins, facts, strict=True) if fact != _NONE]
    constants = sum(isinstance(v, Const) for v in equation.ins)
    if not known.elementwise or len(followed) != 1 or constants != len(facts) - 1:
        return _NONE
    ((v, fact),) = followed
    if v.aval.shape != equation.outs[0].aval.shape:
        return _NONE
    zero = zero_result(equation, [v is u or u.is_zero for u in equation.ins])
    return fact._replace(zero=fact.zero and zero, same=fact.same and known.same)


_STACKED: Lattice[Stacked] = Lattice(
    top=_NONE,
    join=lambda a, b: a if a == b else _NONE,
    constant=lambda v: _NONE if isinstance(v, Const) else None,
    transfer=_transfer,
    enters=False,
)


def layer_axes(program: Program) -> dict[int, tuple[int, int]]:
    """The inputs that a loop runs over: number of the input -> (layer axis, its length).

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> def fn(w, x):
    ...     return jax.lax.scan(lambda c, w: (c * w, None), x, w)[0]
    >>> layer_axes(Folder().flatten(jax.make_jaxpr(fn)(jnp.ones(3), jnp.ones(()))))
    {0: (0, 3)}
    """
    facts = stacked(program)
    result: dict[int, tuple[int, int]] = {}
    for eqn in program.equations:
        if eqn.name == "scan":
            for fact in map(facts.of, eqn.ins[sum(scan_counts(eqn.params)) :]):
                if fact != _NONE:
                    result[fact.input] = (fact.axes[0], eqn.params["length"])
    return result


def longer(small: FlatModel, big: FlatModel, how: str) -> Stacks | Conflict:
    """Leaf -> layer axis and rows, for leaves stacked over loops of different lengths."""
    before, after = ({list(side.shapes)[i]: axis for i, axis in
                      layer_axes(side.program).items() if i < len(side.shapes)}
                     for side in (small, big))  # fmt: skip
    result = {}
    for name, (axis, count) in after.items():
        if name in before and before[name][0] == axis and before[name][1] != count:
            if count < before[name][1]:
                return fewer(before[name][1], count)
            result[name] = (axis, order(before[name][1], count, how))
    return result
