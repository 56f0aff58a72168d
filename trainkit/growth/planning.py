"""`plan`: from two functions and the shapes of their parameters to an exact way of growing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from trainkit.growth.analysis.joint_program import Analysis, Value
from trainkit.growth.analysis.solve import widen
from trainkit.growth.depth.assembly import Shapes, Side, assemble, deeper
from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.custom_gradients import unproved
from trainkit.growth.ir.program import Folder, Program
from trainkit.growth.ir.trace import named_shapes, shape_of, structs, traced_program
from trainkit.growth.operators import Operator, operator
from trainkit.growth.plan.data import Plan, unchanged
from trainkit.growth.plan.groups import more_groups
from trainkit.growth.plan.upcycling import upcycled
from trainkit.growth.rules import RULES, UNKNOWN

PyTree = Any


def plan(
    small_fn: Callable[..., PyTree],
    big_fn: Callable[..., PyTree],
    small_params: PyTree,
    big_params: PyTree,
    *inputs: PyTree,
    append: Sequence[tuple[str, int]] = (),
    how: str | Operator = "identity",
    trainable: Callable[[str], bool] = lambda path: True,
) -> Plan:
    """Finds how the parameters of one model become those of a wider or deeper one.

    Both functions are traced, not run; the programs are walked in lockstep, the axes that are
    coupled are found, and the scales are solved for, such that

        big_fn(plan.grow(small_params), *inputs) = small_fn(small_params, *inputs)

    holds for every value of parameters and inputs, in exact arithmetic. New layers are cut out of
    the big program first, once it is proved that they do nothing.

    Args:
      small_fn, big_fn: pure functions `fn(params, *inputs)` of one model at two sizes.
      small_params, big_params: pytrees of arrays or `jax.ShapeDtypeStruct`s. Where the big one has
        more layers (numbered keys, items of a list or tuple, siblings of one kind, or arrays
        stacked over the layers of a loop), these are added as `how` says.
      *inputs: what both functions are called with after the parameters: pytrees of arrays or
        `jax.ShapeDtypeStruct`s. Sizes of 1 may be traced differently: use 2 or more.
      append: (regular expression, axis) of parameters whose units are to stay where they are, with
        new ones behind them that copy none and are read with 0 (or make 0) at first. By itself
        this is done where copies are impossible: vocabularies, tables of positions, results.
      how: what new layers are, if there are any; see `trainkit.growth.operators`. "identity": they
        do nothing at first: the last linear parameters of a residual branch are 0, a plain layer
        between ReLUs is an identity matrix or a Dirac kernel; which, is found in the program, and
        that they do nothing is proved on it. "stack", "interpose", "middle" and "last" copy old
        layers and change the function; the plan then is exact for all but the copies. "experts":
        the big model has a mixture where the small one has a dense layer, which every expert
        becomes; found by names and shapes, not proved (see `growth.plan.experts.of_dense`).
        "groups": key and value heads grow alone; not proved (see
        `trainkit.growth.plan.groups.more_groups`).
      trainable: which leaves of new layers may be set to 0 (not running statistics).

    Results may grow along an axis that nothing sums over (the logits of a larger vocabulary): their
    old entries lead and are exact. Indices into a table that grows count from its start.

    Returns:
      A `Plan`.

    Raises:
      GrowthError: the functions differ in more than sizes and layers, an axis would shrink, an
        axis cannot grow, or new layers cannot be identities; the error says where, and what to
        grow instead.

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
    if [name for name, _ in small_leaves] == [name for name, _ in big_leaves]:
        same = {name: name for name, _ in small_leaves}
        _check_leaves(small_leaves, dict(big_leaves), same, _sizes(big_leaves))
    args = jax.tree.map(shape_of, inputs)
    small_program, small_out = traced_program(small_fn, structs(small_params), args, "small")
    big_program, big_out = traced_program(big_fn, structs(big_params), args, "big")
    if str(jax.tree.structure(small_out)) != str(jax.tree.structure(big_out)):
        raise GrowthError(
            f"the two functions return different structures: {jax.tree.structure(small_out)} and "
            f"{jax.tree.structure(big_out)}"
        )

    guesses = unproved(small_program, small_fn, structs(small_params), args)
    folder = Folder()
    small = Side(folder.flatten(small_program), _sizes(small_leaves))
    big = Side(folder.flatten(big_program), _sizes(big_leaves))

    def widths(
        before: Program, after: Program, old: dict[str, str], shapes: Shapes, eyes: Shapes
    ) -> Plan:
        analysis = Analysis(RULES, UNKNOWN)
        analysis.folder = folder
        for i, (name, s) in enumerate(small_leaves):
            value = Value(s.shape, shapes[old[name]], s.dtype, origin=i)
            analysis.params.append((old[name], value))
        for i, (name, shape) in enumerate(eyes.items(), len(small_leaves)):
            dtype = dict(big_leaves)[name].dtype
            analysis.params.append((name, Value(shape, shapes[name], dtype, origin=i)))
        values = [value for _, value in analysis.params]
        values += [Value(x.shape, x.shape, x.dtype) for x in jax.tree.leaves(args)]
        places = {name: i for i, name in enumerate(big.shapes)}
        names = [*(old[name] for name in small.shapes), *eyes]
        ins = [after.ins[places[name]] for name in names]
        after = Program([*ins, *after.ins[len(places) :]], after.equations, after.outs)
        # Identity matrices are the last inputs of the small program; parameters come first here.
        n, m = len(small_leaves), len(before.ins) - len(eyes)
        order = [*before.ins[:n], *before.ins[m:], *before.ins[n:m]]
        before = Program(order, before.equations, before.outs)
        made = widen(analysis, before, after, values, small_out, append)
        theirs = {old[small_leaves[i][0]] for i in guesses}
        leaves = [
            dataclasses.replace(leaf, calibrated=True) if leaf.path in theirs else leaf
            for leaf in made.leaves
        ]
        return dataclasses.replace(made, leaves=tuple(leaves))

    depth = operator(how).depth
    if depth == "groups":
        return more_groups(small_params, big_params)
    if depth == "experts":
        trees = jax.tree.structure(small_params), jax.tree.structure(big_params)
        return upcycled(small_leaves, big_leaves, trees, dict(operator(how).names))
    refused: GrowthError | None = None
    for found in deeper(small, big, depth, folder, trainable):
        try:
            _check_leaves(small_leaves, dict(big_leaves), found.old, found.shapes)
            if found.big is None:
                grown = _unchanged(small_leaves, found.old)
            else:
                grown = widths(found.small, found.big, found.old, found.shapes, found.eyes)
        except GrowthError as error:
            refused = refused or error
            continue
        trees = jax.tree.structure(small_params), jax.tree.structure(big_params)
        dtypes = {name: str(leaf.dtype) for name, leaf in big_leaves}
        made = assemble(grown, found, big.shapes, dtypes, depth)
        return dataclasses.replace(made, trees=trees)
    if refused is not None:
        raise refused
    return widths(small.program, big.program, same, big.shapes, {})


def _sizes(leaves: list[tuple[str, Any]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves}


def _unchanged(leaves: list[tuple[str, Any]], old: dict[str, str]) -> Plan:
    return Plan(tuple(unchanged(old[name], tuple(s.shape), str(s.dtype)) for name, s in leaves), ())


def _check_leaves(
    small: list[tuple[str, Any]], big: dict[str, Any], old: dict[str, str], shapes: Shapes
) -> None:
    for name, s in small:
        path = old[name]
        if s.dtype != big[path].dtype:
            raise GrowthError(
                f"{path} is {s.dtype} in the small and {big[path].dtype} in the big model",
                params=[path],
                hint="cast one of them first",
            )
        if len(s.shape) != len(shapes[path]):
            raise GrowthError(
                f"{path} has shape {s.shape} in the small and {shapes[path]} in the big model",
                params=[path],
            )
        for d, (n, m) in enumerate(zip(s.shape, shapes[path], strict=True)):
            if n == 0 != m:
                raise GrowthError(
                    f"axis {d} of {path} has no units to copy: shapes {s.shape} → {shapes[path]}",
                    axis=f"{n} → {m}",
                    params=[path],
                    hint="start from a model with at least one",
                )
            if m < n:
                raise GrowthError(
                    f"axis {d} of {path} would shrink from {n} to {m}: shapes "
                    f"{s.shape} → {shapes[path]}",
                    axis=f"{n} → {m}",
                    params=[path],
                    hint="growth only enlarges; swap the two models, or use plan.shrink to prune",
                )
