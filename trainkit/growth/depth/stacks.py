"""Layers that are stacked in one array and run by a loop: which axis is depth, and fewer rounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.program import Const, Equation, Fresh, Program, scan_counts
from trainkit.growth.ir.source_lines import where

_SAME_SHAPE = frozenset(
    ("convert_element_type", "neg", "stop_gradient", "reduce_precision", "mul")
    + ("add", "sub", "div", "square", "exp", "tanh")
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
    follows: dict[int, tuple[int, tuple[int, ...]]] = {
        id(v): (i, tuple(range(v.aval.ndim))) for i, v in enumerate(program.ins)
    }
    found: dict[int, tuple[int, int]] = {}
    for eqn in program.equations:
        moved = [follows.get(id(v)) for v in eqn.ins]
        if eqn.name == "scan":
            for come in moved[sum(scan_counts(eqn.params)) :]:
                if come is not None:
                    found[come[0]] = (come[1][0], eqn.params["length"])
        elif eqn.name == "transpose" and moved[0] is not None:
            number, axes = moved[0]
            order = tuple(axes[p] for p in eqn.params["permutation"])
            follows[id(eqn.outs[0])] = (number, order)
        elif eqn.name in _SAME_SHAPE:
            known = [come for come in moved if come is not None]
            rest = [v for v, come in zip(eqn.ins, moved, strict=True) if come is None]
            if len(known) == 1 and all(isinstance(v, Const) for v in rest):
                follows[id(eqn.outs[0])] = known[0]
    return found


def shortened(program: Program, stacks: dict[int, tuple[int, list[int]]]) -> Program:
    """The program with some of the rounds of its loops left out.

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
        known = next((c for c in cut if c is not None), None)
        if known is None:
            equations.append(Equation(eqn.raw, moved, eqn.outs, eqn.calls))
            continue
        axis, keep = known
        raw, outs = eqn.raw, eqn.outs
        if eqn.name == "scan":
            consts, carried = scan_counts(eqn.params)
            first = consts + carried
            if any(c is not None for c in cut[:first]):
                _refuse(eqn)
            over = zip(moved[first:], cut[first:], strict=True)
            moved = [*moved[:first], *(v if c else _fewer(v, keep) for v, c in over)]
            raw = raw.replace(params={**raw.params, "length": len(keep)})
            outs = [*outs[:carried], *(smaller(v, 0, keep) for v in outs[carried:])]
        elif eqn.name == "transpose":
            outs = [smaller(outs[0], list(eqn.params["permutation"]).index(axis), keep)]
        elif eqn.name in _SAME_SHAPE:
            pairs = zip(moved, cut, strict=True)
            moved = [v if c or not v.shape else _fewer(v, keep, axis) for v, c in pairs]
            outs = [smaller(v, axis, keep) for v in outs]
        else:
            _refuse(eqn)
        equations.append(Equation(raw, moved, outs, eqn.calls))
    return Program(ins, equations, [new.get(id(v), v) for v in program.outs])


def _fewer(v: Any, keep: list[int], axis: int = 0) -> Any:
    """What a loop runs over beside its parameters: their rows."""
    if not isinstance(v, Const):
        raise GrowthError(
            "a loop over layers also runs over something that is neither a parameter nor a "
            f"constant, of shape {tuple(v.aval.shape)}",
            hint="give the loop what it needs for each layer as parameters or constants",
        )
    shape = tuple(len(keep) if a == axis else n for a, n in enumerate(v.shape))
    take = lambda: np.take(v.value, keep, axis)
    return Const(shape, v.dtype, ("rows", v.key, tuple(keep), axis), take, v.uniform)


def _refuse(eqn: Equation) -> None:
    raise GrowthError(
        f"parameters that are stacked over layers are used outside their loop, by `{eqn.name}`",
        primitive=eqn.name,
        source=where(eqn),
        hint="keep the layers that grow in arrays of their own",
    )
