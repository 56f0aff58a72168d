"""The pass from two functions and the shapes of their parameters to the data of a plan."""

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
from trainkit.growth.plan.data import PlanData, unchanged
from trainkit.growth.plan.experts import upcycled
from trainkit.growth.plan.groups import repeats
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
) -> PlanData:
    """The data of `trainkit.growth.plan`, whose docstring says what the arguments are."""
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
    ) -> PlanData:
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
        return repeats(small_params, big_params, calibrated=True)
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


def _unchanged(leaves: list[tuple[str, Any]], old: dict[str, str]) -> PlanData:
    return PlanData(
        tuple(unchanged(old[name], tuple(s.shape), str(s.dtype)) for name, s in leaves), ()
    )


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
