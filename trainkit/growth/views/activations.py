"""Activations along the axes of a plan: the mean square of each unit on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.values import Renamed, Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.queries import coordinates, grown_leaves, leaves
from trainkit.growth.errors import GrowthError, unwrap
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import dependent
from trainkit.growth.ir.primitives import NONE, summed, traits
from trainkit.growth.ir.program import Program
from trainkit.growth.ir.trace import named_shapes, shape_of, structs, traced_program
from trainkit.growth.plan.data import PlanData
from trainkit.growth.plan.validation import check_shapes
from trainkit.growth.rules import RULES, UNKNOWN

PyTree = Any


def activations(
    plan: PlanData, small_fn: Callable, big_fn: Callable, params: PyTree, *inputs: PyTree
) -> dict[int, np.ndarray]:
    """The mean square of each unit of each axis, over all activations contracted over that axis.

    Args:
      plan: from `plan(small_fn, big_fn, …)`.
      small_fn, big_fn: the functions of that plan.
      params: the big model's parameters.
      *inputs: a batch of the big model, with the shapes of the plan.

    Returns:
      Number of the axis -> float64[big]. If several activations are contracted over one axis, each
      is divided by its own mean.

    Raises:
      GrowthError: no activation is contracted over an axis (except in a loop, which is not
        entered).
    """
    sizes = {leaf.path: tuple(leaf.big) for leaf in plan.leaves}
    check_shapes(params, sizes, "params", "activations are those of the big model")
    flat, treedef = jax.tree.flatten(params)
    shrunk = [
        jax.ShapeDtypeStruct(leaf.small, w.dtype) for leaf, w in zip(plan.leaves, flat, strict=True)
    ]
    small_params = jax.tree.unflatten(treedef, shrunk)
    args = jax.tree.map(shape_of, inputs)
    fed = _small_inputs(plan, args)
    sides = (small_fn, small_params, fed, "small"), (big_fn, params, args, "big")
    programs = [traced_program(fn, structs(p), xs, which)[0] for fn, p, xs, which in sides]
    analysis = Analysis(RULES, UNKNOWN)
    values = []
    for (path, b), s in zip(named_shapes(params, "params"), shrunk, strict=True):
        values.append(Value(s.shape, b.shape, b.dtype))
        analysis.params.append((path, values[-1]))
    for (path, x), s in zip(named_leaves(args).items(), jax.tree.leaves(fed), strict=True):
        values.append(Value(s.shape, x.shape, x.dtype))
        if path in dict(plan.symbols):
            values[-1].choice = Renamed(dict(plan.symbols)[path])
    small, big = (analysis.folder.flatten(p) for p in programs)
    pairs, _ = unwrap(analysis.join(small, big, values))
    number = _numbers(plan, values)
    wanted: list[tuple[int, int, int, Axis]] = []  # equation, operand, dimension, leaf
    equations = [pair.big for pair in pairs]
    live = dependent(Program(big.ins, equations, []), range(len(flat), len(big.ins)))
    for e, (pair, equation) in enumerate(zip(pairs, equations, strict=True)):
        for i, operand in enumerate(equation.ins):
            if not live.of(operand):
                continue
            for d in summed(pair, i) if traits(pair).multilinear != NONE else ():
                wanted += [(e, i, d, leaf) for leaf in grown_leaves(pair.ins[i].axes[d])]

    def run(flat, inputs):
        env = dict(zip(map(id, big.ins), [*flat, *jax.tree.leaves(inputs)], strict=True))
        found: dict[int, jax.Array] = {}
        for e, equation in enumerate(equations):
            ins = [
                jnp.asarray(v.value) if isinstance(v, Const) else env[id(v)] for v in equation.ins
            ]
            for at, i, d, leaf in wanted:
                if at == e:
                    n = number[leaf.uid]
                    more = _along(ins[i], pairs[e].ins[i].axes[d], d, leaf)
                    found[n] = found.get(n, jnp.zeros_like(more)) + more
            outs = equation.raw.primitive.bind(*ins, **equation.params)
            outs = outs if equation.raw.primitive.multiple_results else [outs]
            env.update(zip(map(id, equation.outs), outs, strict=True))
        return found

    found = jax.jit(run)(flat, inputs)
    _check_all(plan, found)
    return {i: np.asarray(x, np.float64) for i, x in sorted(found.items())}


def _small_inputs(plan: PlanData, args: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
    """The shapes of the small model's inputs, from those of the big one's."""
    grown = {leaf.path: leaf for leaf in plan.inputs}

    def one(path: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        leaf = grown.get(path_name(path))
        return x if leaf is None else jax.ShapeDtypeStruct(leaf.small, x.dtype)

    return jax.tree_util.tree_map_with_path(one, args)


def _check_all(plan: PlanData, found: Mapping[int, Any]) -> None:
    for n, grown in enumerate(plan.grown_axes):
        if n not in found:
            raise GrowthError(
                "no activation is contracted over this axis outside a loop",
                axis=f"{grown.small} → {grown.big}",
                hint="use score='gradient' or 'magnitude'",
            )


def _along(x: jax.Array, axis: Axis, d: int, leaf: Axis) -> jax.Array:
    square = jnp.square(jnp.abs(x))
    mean = square.mean([e for e in range(x.ndim) if e != d])
    n = find(leaf).big
    places = coordinates(axis, leaf, of_big=True)
    sums = [jax.ops.segment_sum(mean, np.where(x < 0, n, x), n + 1)[:-1] for x in places]
    total = jnp.sum(jnp.stack(sums), 0)
    return total / jnp.maximum(total.mean(), jnp.finfo(total.dtype).tiny)


def _numbers(plan: PlanData, values: list[Value]) -> dict[int, int]:
    """Uid of a grown leaf of this analysis -> its number in the plan."""

    def listed(structure) -> list[int | None]:
        if structure[0] in ("leaf", "fixed"):
            return [structure[1] if structure[0] == "leaf" else None]
        return [a for part in structure[1:] for a in listed(part)]

    result: dict[int, int] = {}
    for leaf, value in zip(plan.leaves, values[: len(plan.leaves)], strict=True):
        for planned, axis in zip(leaf.axes, value.axes, strict=True):
            if planned is None:
                continue
            grown = [find(x).uid for x in leaves(axis) if not x.fixed]
            numbers = [a for a in listed(planned.structure) if a is not None]
            result.update(zip(grown, numbers, strict=True))
    return result
