"""`plan`: from two functions and the shapes of their parameters to an exact way of growing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from trainkit.growth.blueprint import Plan
from trainkit.growth.errors import GrowthError
from trainkit.growth.lockstep import Analysis, Value
from trainkit.growth.rules import RULES, UNKNOWN
from trainkit.growth.tracing import named_shapes, shape_of, structs, traced_program
from trainkit.growth.widening import widen

PyTree = Any


def plan(
    small_fn: Callable[..., PyTree],
    big_fn: Callable[..., PyTree],
    small_params: PyTree,
    big_params: PyTree,
    *inputs: PyTree,
    append: Sequence[tuple[str, int]] = (),
) -> Plan:
    """Finds how the parameters of one model become those of a wider one with the same outputs.

    Both functions are traced, not run; the programs are walked in lockstep, the axes that are
    coupled are found, and the scales are solved for, such that

        big_fn(plan.grow(small_params), *inputs) = small_fn(small_params, *inputs)

    holds for every value of parameters and inputs, in exact arithmetic.

    Args:
      small_fn, big_fn: pure functions `fn(params, *inputs)` of one model at two widths. Their
        results must have the same shapes.
      small_params, big_params: pytrees of arrays or `jax.ShapeDtypeStruct`s, of one structure.
      *inputs: what both functions are called with after the parameters: pytrees of arrays or
        `jax.ShapeDtypeStruct`s. Sizes of 1 may be traced differently: use 2 or more.
      append: (regular expression, axis) of parameters whose units are to stay where they are, with
        new ones behind them that copy none and are read with 0 (or make 0) at first. By itself
        this is done where copies are impossible: vocabularies, tables of positions, results.

    Results may grow along an axis that nothing sums over (the logits of a larger vocabulary): their
    old entries lead and are exact. Indices into a table that grows count from its start.

    Returns:
      A `Plan`.

    Raises:
      GrowthError: the functions differ in more than sizes, an axis would shrink, or an axis cannot
        grow; the error says where, and what to grow instead.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit import growth
    >>> def mlp(params, x):
    ...     return jax.nn.gelu(x @ params["in"]) @ params["out"]
    >>> def shapes(width):
    ...     return {"in": jax.ShapeDtypeStruct((3, width), jnp.float32),
    ...             "out": jax.ShapeDtypeStruct((width, 2), jnp.float32)}
    >>> p = growth.plan(mlp, mlp, shapes(4), shapes(8), jax.ShapeDtypeStruct((5, 3), jnp.float32))
    >>> p.leaves[1].path, p.leaves[1].weight  # what reads a doubled axis is halved
    ('out', 0.5)
    """
    small_leaves = named_shapes(small_params, "small_params")
    big_leaves = named_shapes(big_params, "big_params")
    _check_params(small_leaves, big_leaves)
    args = jax.tree.map(shape_of, inputs)
    small_program, small_out = traced_program(small_fn, structs(small_params), args, "small")
    big_program, big_out = traced_program(big_fn, structs(big_params), args, "big")
    if str(jax.tree.structure(small_out)) != str(jax.tree.structure(big_out)):
        raise GrowthError(
            f"the two functions return different structures: {jax.tree.structure(small_out)} and "
            f"{jax.tree.structure(big_out)}"
        )

    analysis = Analysis(RULES, UNKNOWN)
    values = []
    for i, ((path, s), (_, b)) in enumerate(zip(small_leaves, big_leaves, strict=True)):
        value = Value(s.shape, b.shape, s.dtype, origin=i)
        values.append(value)
        analysis.params.append((path, value))
    for leaf in jax.tree.leaves(args):
        values.append(Value(leaf.shape, leaf.shape, leaf.dtype))
    small_flat, big_flat = (analysis.folder.flatten(p) for p in (small_program, big_program))
    return widen(analysis, small_flat, big_flat, values, small_out, append)


def _check_params(small_leaves, big_leaves) -> None:
    small_paths, big_paths = [p for p, _ in small_leaves], [p for p, _ in big_leaves]
    if small_paths != big_paths:
        only_small = [p for p in small_paths if p not in set(big_paths)]
        only_big = [p for p in big_paths if p not in set(small_paths)]
        raise GrowthError(
            "the parameters of the two models have different structures: only in small_params: "
            f"{only_small[:5] or 'none'}; only in big_params: {only_big[:5] or 'none'}",
            params=[*only_small[:3], *only_big[:3]],
            mend="two models of one depth and one set of options; depth grows by plan.deepen",
        )
    for (path, s), (_, b) in zip(small_leaves, big_leaves, strict=True):
        if len(s.shape) != len(b.shape):
            raise GrowthError(
                f"{path} has shape {s.shape} in the small and {b.shape} in the big model",
                params=[path],
            )
        if s.dtype != b.dtype:
            raise GrowthError(
                f"{path} is {s.dtype} in the small and {b.dtype} in the big model",
                params=[path],
                mend="cast one of them first",
            )
        for d, (n, m) in enumerate(zip(s.shape, b.shape, strict=True)):
            if m < n:
                raise GrowthError(
                    f"axis {d} of {path} would shrink from {n} to {m}: shapes "
                    f"{s.shape} → {b.shape}",
                    axis=f"{n} → {m}",
                    params=[path],
                    mend="growth only enlarges; swap the two models, or use plan.shrink to prune",
                )
