"""`plan`: from two functions and the shapes of their parameters to an exact way of growing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from trainkit.growth import hollow
from trainkit.growth.axes import Axis, find, grown_leaves
from trainkit.growth.blueprint import AxisLeaf, LeafPlan, Plan, structure_of
from trainkit.growth.constants import (
    HOLLOW,
    all_joints,
    appended,
    choose_layouts,
    compare,
    refuse_constant,
    rounding,
)
from trainkit.growth.errors import GrowthError
from trainkit.growth.flow import Flow
from trainkit.growth.linear import choose, nearest
from trainkit.growth.lockstep import Analysis, Joint, Value
from trainkit.growth.paths import path_name
from trainkit.growth.program import scan_counts
from trainkit.growth.rules import RULES, UNKNOWN

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
    small_leaves = _shapes(small_params, "small_params")
    big_leaves = _shapes(big_params, "big_params")
    _check_params(small_leaves, big_leaves)
    args = jax.tree.map(_shape, inputs)
    small_program, small_out = _trace(small_fn, _structs(small_params), args, "small")
    big_program, big_out = _trace(big_fn, _structs(big_params), args, "big")
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
    joints, outs = analysis.walk(small_flat, big_flat, values)
    visible = _open_outputs(analysis, outs, small_out)
    _check_outputs(analysis, joints, visible)
    _append(analysis, append)

    layouts = choose_layouts(analysis, [*values, *outs], joints)
    first: tuple[Axis, GrowthError] | None = None
    while True:
        try:
            flow = _run(analysis, values, joints, outs, layouts)
            return _emit(analysis, flow, layouts, {find(axis).uid for _, axis in visible})
        except GrowthError as error:
            # Units with unequal numbers of copies are impossible here: new units that hold nothing
            # may still be (a stream that only root-mean-square norms and parameters read).
            odd = [
                leaf
                for leaf in error.leaves
                if leaf.big % leaf.small and layouts[leaf.uid] == "repeat"
            ]
            if odd:
                first = first or (odd[0], error)
                layouts[odd[0].uid] = "append"
                odd[0].source = appended(odd[0].small, odd[0].big)
            elif first is None:
                raise
            else:
                raise _no_multiple(analysis, *first) from error


def _no_multiple(analysis: Analysis, leaf: Axis, error: GrowthError) -> GrowthError:
    n, m = leaf.small, leaf.big
    return GrowthError(
        f"an axis that grows from {n} to {m}, no multiple, is summed over where no parameter can "
        "be split over its copies (a norm, or a product of activations): units with different "
        f"numbers of copies would count differently. The first equation that shows it:\n"
        f"{error.reason}",
        axis=f"{n}→{m}",
        params=analysis.paths([leaf]),
        primitive=error.primitive,
        source=error.source,
        mend=f"grow this axis to a multiple of {n} ({n * max(2, round(m / n))}), or grow a hidden "
        "width that parameters alone read, which may take any size",
    )


def _append(analysis: Analysis, wanted: Sequence[tuple[str, int]]) -> None:
    for pattern, d in wanted:
        found = [(path, v) for path, v in analysis.params if re.search(pattern, path)]
        grows = [v for _, v in found if -len(v.axes) <= d < len(v.axes) and not v.axes[d].fixed]
        if not grows:
            raise GrowthError(
                f"append=({pattern!r}, {d}) names no axis that grows",
                params=[path for path, _ in found] or [path for path, _ in analysis.params],
                mend="give a regular expression for the path of a parameter and the number of one "
                "of its axes that is larger in the big model",
            )
        for value in grows:
            analysis.force(value.axes[d], "append")


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    array = jax.numpy.asarray(x)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _structs(tree: PyTree) -> PyTree:
    return jax.tree.map(_shape, tree)


def _shapes(tree: PyTree, name: str) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    if not found:
        raise GrowthError(f"{name} has no leaves")
    return [(path_name(path), _shape(leaf)) for path, leaf in found]


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


def _trace(fn, params, args, which: str):
    try:
        return jax.make_jaxpr(fn, return_shape=True)(params, *args)
    except GrowthError:
        raise
    except Exception as error:
        raise GrowthError(
            f"the {which} function cannot be traced with its parameters and these inputs: "
            f"{type(error).__name__}: {error}",
            mend=f"check that {which}_params are the parameters of {which}_fn, that both are "
            f"called as fn(params, *inputs), and that the inputs have the shapes the model expects",
        ) from error


def _open_outputs(analysis: Analysis, outs: list[Value], out_tree: PyTree):
    """The axes of results that grow, with a text that says which: new entries go to their end."""
    found = []
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(out_tree)]
    for path, out in zip(paths, outs, strict=True):
        for d, axis in enumerate(out.axes):
            if not find(axis).fixed:
                analysis.force(axis, "append")
                found.append(
                    (f"result{path} grows: shape {out.small} → {out.big}, at axis {d}", axis)
                )
    return found


def _check_outputs(analysis: Analysis, joints: list[Joint], visible) -> None:
    """A result may grow by new entries behind the old ones, not by the units of the model."""
    summed = set()
    for joint in all_joints(joints) if visible else ():
        gone: Sequence[int] = ()
        if joint.name == "dot_general":
            gone = joint.params["dimension_numbers"][0][0]
        elif joint.name == "conv_general_dilated":
            gone = (joint.params["dimension_numbers"].lhs_spec[1],)
        elif joint.name.startswith("reduce_"):
            gone = joint.params.get("axes", ())
        summed |= {leaf.uid for d in gone for leaf in grown_leaves(joint.ins[0].axes[d])}
    for text, axis in visible:
        if any(leaf.uid in summed for leaf in grown_leaves(axis)):
            analysis.fail(
                f"{text}, and the model sums over that axis",
                axes=(axis,),
                mend="growth keeps the function: return what both models share: logits, or a loss",
            )


def _run(analysis, values, joints: list[Joint], outs, layouts) -> Flow:
    factors: dict[int, float | None] = {}
    every = [*values, *outs]
    for joint in all_joints(joints):
        every += [*joint.ins, *joint.outs]
        every += [v for body in joint.bodies for v in (*body.ins, *body.outs)]
    for v in every:
        for axis in v.axes:
            for leaf in grown_leaves(axis):
                if layouts[leaf.uid] in HOLLOW:
                    factors[leaf.uid] = 0.0
                elif leaf.big % leaf.small:
                    factors[leaf.uid] = None
                else:
                    factors[leaf.uid] = math.log(leaf.big // leaf.small)
    holes = frozenset(uid for uid in factors if layouts[uid] in HOLLOW)
    for v in every:
        if v.const is not None:
            v.scale = None  # what an earlier attempt found
    flow = Flow(analysis, factors, holes)
    users = {id(v): j for j in all_joints(joints) for v in j.ins}

    def read_constant(v: Value) -> np.ndarray:
        found = compare(v)
        if found is None:
            refuse_constant(analysis, v, users.get(id(v), joints[-1]))
        if any(e for e in found.flat):
            # Ratios of constants are known no better than the constants.
            flow.scales.tolerance = max(flow.scales.tolerance, 4 * rounding(v))
        return found

    flow.read_constant = read_constant
    flow.shiftable = shiftable(analysis, joints, values)
    for i, value in enumerate(values):
        if i < len(analysis.params):
            flow.parameter(value)
            if not jax.dtypes.issubdtype(value.dtype, np.inexact):
                for expr in value.scale.flat:
                    flow.scales.require_zero(expr)
        else:
            flow.plain(value)
    flow.run(joints)
    for i, out in enumerate(outs):
        flow.read(out)
        for expr in out.scale.flat:
            if expr is not None and flow.scales.require_zero(expr):
                analysis.fail(
                    f"result {i} would change by a factor, and no scaling of the parameters "
                    "mends it",
                    equation=joints[-1].small if joints else None,
                )
    return flow


_FORWARD = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type",
    "stop_gradient", "copy", "copy_p",
}  # fmt: skip


def shiftable(analysis: Analysis, joints: list[Joint], values: list[Value]) -> dict[int, float]:
    """Parameters of which every use is `w + s` with one constant s."""
    origin = {id(v): i for i, v in enumerate(values[: len(analysis.params)])}
    shifts: dict[int, set[float | None]] = {}

    def visit(equations: list[Joint]) -> None:
        for joint in equations:
            if joint.name == "scan":
                consts, carried = scan_counts(joint.params)
                skip = consts + carried
                for outer, inner in zip(joint.ins[skip:], joint.bodies[0].ins[skip:], strict=True):
                    if id(outer) in origin:
                        origin[id(inner)] = origin[id(outer)]
                for v in joint.ins[consts:skip]:
                    if id(v) in origin:
                        shifts.setdefault(origin[id(v)], set()).add(None)
            for body in joint.bodies:
                visit(body.equations)
            if joint.bodies:
                if joint.name != "scan":
                    for v in joint.ins:
                        if id(v) in origin:
                            shifts.setdefault(origin[id(v)], set()).add(None)
                continue
            for k, v in enumerate(joint.ins):
                if id(v) not in origin:
                    continue
                i = origin[id(v)]
                if joint.name in _FORWARD:
                    origin[id(joint.outs[0])] = i
                    continue
                shift = None
                if joint.name == "add":
                    const = joint.ins[1 - k].const
                    if const and const[0].uniform is not None and const[1].uniform is not None:
                        a, b = float(const[0].uniform), float(const[1].uniform)
                        shift = a if a == b != 0.0 else None
                shifts.setdefault(i, set()).add(shift)

    visit(joints)
    agreed = ((i, next(iter(s))) for i, s in shifts.items() if len(s) == 1)
    return {i: shift for i, shift in agreed if shift is not None}


def _emit(analysis: Analysis, flow: Flow, layouts: dict[int, str], visible: set[int]) -> Plan:
    chosen, clean = _choose_splits(analysis, flow)
    reads, tied, paired = _roles(flow, chosen)
    fresh = _fresh(flow)
    looked_at = {uid for condition, _ in flow.needs for c in condition for _, _, uid in c}
    numbers: dict[int, int] = {}
    atoms: list[AxisLeaf] = []

    def number(leaf: Axis) -> int:
        if leaf.uid not in numbers:
            numbers[leaf.uid] = len(atoms)
            atoms.append(
                AxisLeaf(
                    leaf.small,
                    leaf.big,
                    layouts[leaf.uid],
                    leaf.uid in clean,
                    leaf.uid in paired,
                    leaf.uid in visible,
                    "random" if leaf.uid in looked_at else "mean",
                )
            )
        return numbers[leaf.uid]

    wanted = []
    for i, (_, value) in enumerate(analysis.params):
        base, more = flow.param_scale[i]
        for block in np.ndindex(value.scale.shape):
            target = 0.0
            for d, label in enumerate(block):
                for leaf in flow.labels(value.axes[d])[1][label]:
                    if chosen[i].get((d, label, leaf.uid)):
                        target -= flow.factors[leaf.uid] or 0.0
            wanted.append((value.scale[block], target, 1.0))
    evaluate = nearest(flow.scales, wanted)

    plans = []
    for i, (path, value) in enumerate(analysis.params):
        base, more = flow.param_scale[i]
        segments, carried, structures = [], [], []
        for d, axis in enumerate(value.axes):
            axis = find(axis)
            cells = flow.labels(axis)[1]
            scales = tuple(
                _round(math.exp(evaluate(more[d, label]) if label else 0.0))
                for label in range(len(cells))
            )
            segments.append(scales if any(s != 1.0 for s in scales) else ())
            carried.append(
                tuple(
                    tuple(
                        sorted(
                            number(leaf)
                            for leaf in dict.fromkeys(cell)
                            if chosen[i].get((d, label, leaf.uid))
                        )
                    )
                    for label, cell in enumerate(cells)
                )
                if not axis.fixed
                else ()
            )
            plain = axis.fixed and not segments[-1]
            structures.append(None if plain else structure_of(axis, number))
        weight = _round(math.exp(evaluate(base)))
        shift = flow.shift.get(i, 0.0)
        if weight == 1.0 and not any(segments) and not flow.hollow(value):
            shift = 0.0
        plans.append(
            LeafPlan(
                path=path,
                small=value.small,
                big=value.big,
                dtype=str(value.dtype),
                axes=tuple(structures),
                weight=weight,
                segments=tuple(segments),
                splits=tuple(carried),
                shift=shift,
                reads=_numbered(reads, i, value, number),
                tied=_numbered(tied, i, value, number),
                fresh=_numbered(fresh, i, value, number),
            )
        )
    return Plan(leaves=tuple(plans), atoms=tuple(atoms), equations=analysis.count)


def _roles(flow: Flow, chosen):
    """Which grown leaves each axis of each parameter is contracted over itself, over which of them
    it writes too, and over which two activations are contracted."""
    owner = {
        var: (i, key)
        for i, split in enumerate(flow.param_split)
        for key, expr in split.items()
        for var in expr
    }
    reads: dict[tuple[int, int], set[int]] = {}
    tied: dict[tuple[int, int], set[int]] = {}
    paired = set()
    for c in flow.contractions:
        if not c.direct and c.joint.name == "dot_general":
            paired.add(c.leaf.uid)
        for expr in c.reads:
            for var in expr:
                if var not in owner:
                    continue
                i, key = owner[var]
                reads.setdefault((i, key[0]), set()).add(c.leaf.uid)
                if not chosen[i][key] and flow.factors[c.leaf.uid] != 0.0:
                    # What reads an axis takes the split, unless it is looked at elsewhere too.
                    tied.setdefault((i, key[0]), set()).add(c.leaf.uid)
    return reads, tied, paired


def _fresh(flow: Flow) -> dict[tuple[int, int], set[int]]:
    """The axis leaves in whose new units a parameter may hold anything."""
    zero = hollow.choose(flow.needs)
    result: dict[tuple[int, int], set[int]] = {}
    for i, split in enumerate(flow.param_split):
        for d, _, uid in split:
            if uid in flow.holes and (i, d, uid) not in zero:
                result.setdefault((i, d), set()).add(uid)
    return result


def _numbered(found, i: int, value: Value, number) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(sorted({number(x) for x in grown_leaves(a) if x.uid in found.get((i, d), ())}))
        for d, a in enumerate(value.axes)
    )


def _round(x: float) -> float:
    """The nearest small fraction where x is one to within rounding."""
    for q in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 32, 64, 128, 256, 512, 1024):
        near = round(x * q) / q
        if near and abs(near / x - 1) < 1e-13:
            return near
    return x


def _choose_splits(analysis: Analysis, flow: Flow):
    """Which parameters carry the split of which leaf, and which leaves are split wherever read."""
    direct: dict[int, set[int]] = {}
    for c in flow.contractions:
        for origin in c.direct:
            direct.setdefault(c.leaf.uid, set()).add(origin)
    bits = []
    for i, split in enumerate(flow.param_split):
        for (_, _, uid), expr in split.items():
            fixed = flow.factors[uid] == 0.0  # nothing is copied: nothing to split
            if fixed:
                flow.splits.require_zero(expr)
            bits.append((expr, 0.0 if i in direct.get(uid, ()) else -1.0))
    between = [
        (c.total, flow.factors[c.leaf.uid] is None, 0.0 if flow.factors[c.leaf.uid] == 0 else 10.0)
        for c in flow.contractions
    ]
    value, culprits = choose(flow.splits, bits, between)
    if value is None:
        c = flow.contractions[culprits[0]]
        c.joint.fail("no parameter can be split over the copies that are summed", axes=(c.leaf,))
    chosen = [{key: value(expr) for key, expr in split.items()} for split in flow.param_split]
    totals: dict[int, list[int]] = {}
    for c in flow.contractions:
        totals.setdefault(c.leaf.uid, []).append(value(c.total))
    clean = {uid for uid, t in totals.items() if uid not in flow.watched and all(x == 1 for x in t)}
    return chosen, clean
