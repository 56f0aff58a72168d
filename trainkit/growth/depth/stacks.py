"""Layers stacked in one array and run by a loop: which axis is depth, and fewer iterations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.dataflow import Facts, Lattice, run
from trainkit.growth.ir.primitives import traits, zero_result
from trainkit.growth.ir.program import Const, Equation, Fresh, Program, scan_counts
from trainkit.growth.ir.source_lines import where


class Stacked(NamedTuple):
    """A value that is computed from one input, each layer of it from a layer of the input.

    Attributes:
      input: the number of the input.
      axes: for each dimension of the value the input's dimension that it is.
      zero: whether a layer of it is 0 where that of the input is.
      same: whether it is the input, but for the order of its dimensions.
    """

    input: int
    axes: tuple[int, ...]
    zero: bool
    same: bool


_NONE = Stacked(-1, (), False, False)  # a value that is no such thing


def stacked(program: Program) -> Facts[Stacked]:
    """Which values are inputs with their layers still apart."""
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
    zero = zero_result(equation, [v is u or _is_zero(u) for u in equation.ins])
    return fact._replace(zero=fact.zero and zero, same=fact.same and known.same)


def _is_zero(v: Any) -> bool:
    return isinstance(v, Const) and v.uniform is not None and not np.any(v.uniform)


_STACKED: Lattice[Stacked] = Lattice(
    top=_NONE,
    join=lambda a, b: a if a == b else _NONE,
    constant=lambda v: _NONE if isinstance(v, Const) else None,
    transfer=_transfer,
    enters=False,
)


def layer_axes(program: Program) -> dict[int, tuple[int, int]]:
    """Inputs over an axis of which a loop runs: number of the input -> (axis, its length).

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


def shortened(program: Program, stacks: dict[int, tuple[int, list[int]]]) -> Program:
    """The program with some of the iterations of its loops left out.

    Args:
      program: flat.
      stacks: number of an input -> its layer axis and the rows of it that stay.

    Raises:
      GrowthError: a stacked parameter is used outside its loop.
    """
    new: dict[int, Any] = {}
    rows: dict[int, tuple[int, list[int]]] = {}  # of the new variables

    def smaller(v: Any, axis: int, keep: list[int]) -> Fresh:
        shape = tuple(len(keep) if a == axis else n for a, n in enumerate(v.aval.shape))
        made = Fresh(v.aval.update(shape=shape))
        new[id(v)], rows[id(made)] = made, (axis, keep)
        return made

    ins = [smaller(v, *stacks[i]) if i in stacks else v for i, v in enumerate(program.ins)]
    equations = []
    for eqn in program.equations:
        moved = [new.get(id(v), v) for v in eqn.ins]
        cut = [rows.get(id(v)) for v in moved]
        known = [c for c in cut if c is not None]
        if not known:
            equations.append(Equation(eqn.raw, moved, eqn.outs, eqn.calls))
            continue
        axis, keep = known[0]
        raw, outs = eqn.raw, eqn.outs
        if any(c != (axis, keep) for c in known):
            _refuse(eqn)
        if eqn.name == "scan":
            consts, carried = scan_counts(eqn.params)
            first = consts + carried
            if axis or any(c is not None for c in cut[:first]):
                _refuse(eqn)
            over = zip(moved[first:], cut[first:], strict=True)
            moved = [*moved[:first], *(v if c else _fewer(v, keep) for v, c in over)]
            raw = raw.replace(params={**raw.params, "length": len(keep)})
            outs = [*outs[:carried], *(smaller(v, 0, keep) for v in outs[carried:])]
        elif eqn.name == "transpose":
            outs = [smaller(outs[0], list(eqn.params["permutation"]).index(axis), keep)]
        elif traits(eqn).elementwise:
            pairs = zip(moved, cut, strict=True)
            moved = [v if c or _repeats(v, axis) else _fewer(v, keep, axis) for v, c in pairs]
            outs = [smaller(v, axis, keep) for v in outs]
        else:
            _refuse(eqn)
        equations.append(Equation(raw, moved, outs, eqn.calls))
    return Program(ins, equations, [new.get(id(v), v) for v in program.outs])


def _repeats(v: Any, axis: int) -> bool:
    """Whether an operand is the same for every layer: it has no layer axis, or one of size 1."""
    shape = getattr(v, "aval", v).shape
    return not shape or shape[axis] == 1


def _fewer(v: Any, keep: list[int], axis: int = 0) -> Any:
    """What a loop runs over beside its parameters: their rows."""
    if not isinstance(v, Const):
        raise GrowthError(
            "a loop over layers also runs over something that is neither a parameter nor a "
            f"constant, of shape {tuple(v.aval.shape)}",
            mend="give the loop what it needs for each layer as parameters or constants",
        )
    shape = tuple(len(keep) if a == axis else n for a, n in enumerate(v.shape))
    take = lambda: np.take(v.value, keep, axis)
    return Const(shape, v.dtype, ("rows", v.key, tuple(keep), axis), take, v.uniform)


def _refuse(eqn: Equation) -> None:
    raise GrowthError(
        f"parameters that are stacked over layers are used outside their loop, by `{eqn.name}`",
        primitive=eqn.name,
        source=where(eqn),
        mend="keep the layers that grow in arrays of their own",
    )
