"""Parts of constants: some entries along each axis, without the evaluation of the whole array.

A table of 8,192 positions × 8,192 units need not be in memory to see that it is no duplicate of a
smaller one. An equation whose result at an index depends on its operands at an index is evaluated
on parts of its operands; any other one on whole operands.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# For each axis the indices of the entries, or `None` for all.
Picks = Sequence[np.ndarray | None]
Part = Callable[[Picks], Any]


def taken(core: Any, picks: Picks) -> Any:
    """Some entries of an array along each of its axes."""
    for d, pick in enumerate(picks):
        if pick is not None and core.shape[d] != 1:
            core = core[(slice(None),) * d + (pick,)]
    return core


def part_of(
    eqn: Any, ins: Sequence[Any], core: Sequence[int], run: Callable[..., Any], elementwise: bool
) -> Part | None:
    """How the core of an equation's result is evaluated in parts; `None` if it has no such form.

    Args:
      eqn: the equation, with one result.
      ins: its operands, constants.
      core: the shape of the result's core.
      run: evaluates the equation on arrays in place of the operands.
      elementwise: whether an element of the result depends on one element of each operand, all at
        the same index.
    """
    name, params, rank = eqn.primitive.name, eqn.params, len(core)
    if name == "iota":
        d, n, dtype = params["dimension"], core[params["dimension"]], eqn.outvars[0].aval.dtype
        shape = [-1 if e == d else 1 for e in range(rank)]
        count = lambda pick: np.arange(n) if pick is None else np.asarray(pick)
        return lambda picks: count(picks[d]).astype(dtype).reshape(shape)
    if name == "broadcast_in_dim":
        dims = params["broadcast_dimensions"]

        def spread(picks: Picks) -> Any:
            x = ins[0].part([picks[d] for d in dims])
            sizes = dict(zip(dims, x.shape, strict=True))
            return x.reshape([sizes.get(d, 1) for d in range(rank)])

        return spread
    if name == "transpose":
        order = params["permutation"]
        back = [order.index(d) for d in range(rank)]
        return lambda picks: ins[0].part([picks[d] for d in back]).transpose(order)
    if elementwise:
        return lambda picks: run(*_broadcast([c.part(picks) if c.shape else c.core for c in ins]))
    if name == "concatenate":
        d = params["dimension"]
        joined = lambda picks: np.concatenate([_whole(c, picks, d) for c in ins], d)
        return lambda picks: taken(
            joined(picks), [p if e == d else None for e, p in enumerate(picks)]
        )
    if name == "stack":
        d = params["axis"] % rank
        return lambda picks: taken(
            np.stack([_whole(c, [*picks[:d], *picks[d + 1 :]]) for c in ins], d),
            [p if e == d else None for e, p in enumerate(picks)],
        )
    if name in ("reshape", "squeeze"):
        return lambda picks: _reshaped(ins[0], picks, core)
    if name == "dot_general" and not any(n for pair in params["dimension_numbers"] for n in pair):
        left = len(ins[0].shape)
        return lambda picks: run(_whole(ins[0], picks[:left]), _whole(ins[1], picks[left:]))
    if name == "scatter":
        return lambda picks: _scattered(params["dimension_numbers"], ins, picks, run)
    return None


def _broadcast(parts: Sequence[Any]) -> list[Any]:
    shape = np.broadcast_shapes(*(x.shape for x in parts))
    return [np.broadcast_to(x, shape) if x.shape else x for x in parts]


def _whole(const: Any, picks: Picks, all_of: int | None = None) -> Any:
    """A part with all its elements, those that repeat too; along axis `all_of` with all entries."""
    picks = [None if d == all_of else pick for d, pick in enumerate(picks)]
    sizes = [n if p is None else len(p) for n, p in zip(const.shape, picks, strict=True)]
    return np.broadcast_to(const.part(picks), sizes)


def _reshaped(const: Any, picks: Picks, core: Sequence[int]) -> Any:
    """A part of a constant whose first axes are those of the result; the others are taken whole."""
    pairs = zip(const.shape, core, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    first = [*picks[:same], *[None] * (len(const.shape) - same)]
    sizes = [n if p is None else len(p) for n, p in zip(core[:same], picks[:same], strict=True)]
    whole = _whole(const, first).reshape([*sizes, *core[same:]])
    return taken(whole, [*[None] * same, *picks[same:]])


def _scattered(numbers: Any, ins: Sequence[Any], picks: Picks, run: Callable[..., Any]) -> Any:
    """A part along the axes that every update covers: `x.at[:, ::2].set(y)` along the first."""
    operand, index, updates = ins
    window = [d for d in range(len(operand.shape)) if d not in numbers.inserted_window_dims]
    mine: list[np.ndarray | None] = [None] * len(operand.shape)
    theirs: list[np.ndarray | None] = [None] * len(updates.shape)
    for d, u in zip(window, numbers.update_window_dims, strict=False):
        if updates.shape[u] == operand.shape[d] and not numbers.operand_batching_dims:
            mine[d] = theirs[u] = picks[d]
    made = run(_whole(operand, mine), index.value, _whole(updates, theirs))
    return taken(made, [None if m is not None else p for m, p in zip(mine, picks, strict=True)])
