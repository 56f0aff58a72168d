"""The plan of a model with new layers, and what their leaves hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, cast

from trainkit.growth.depth.alignment import Origins
from trainkit.growth.depth.candidate import DepthCandidate
from trainkit.growth.depth.flat_model import FlatModel, Shape, Shapes
from trainkit.growth.depth.identity import used
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Program
from trainkit.growth.ir.simplification.identities import (
    EYE,
    EYE_FIRST,
    EYES,
    FREE,
    EyeBlock,
    Parts,
    Supposition,
    product_with,
    shape_of,
)
from trainkit.growth.ir.simplification.opened_loops import CONSTANT, ROW
from trainkit.growth.plan.data import IDENTITIES, Layer, LeafPlan, PlanData, unchanged

Becomes = Literal[
    "copy", "zero", "unit", "minus_one", "eye", "eyes", "eye_first", "eyes_first", "one", "random"
]


def holding(layer: Layer, what: Supposition | Parts, otherwise: Supposition = "copy") -> Layer:
    """The layer with what a leaf of it becomes; `otherwise`: parts of it that may be anything."""
    if isinstance(what, Parts):
        each = tuple((size, str(otherwise) if v == FREE else v) for size, v in what.each)
        return dataclasses.replace(layer, becomes="parts", cut=what.axis, parts=each)
    if isinstance(what, EyeBlock):
        return dataclasses.replace(layer, becomes="eye", start=what.start)
    return dataclasses.replace(layer, becomes=cast(Becomes, what))


def assemble(
    plan: PlanData, candidate: DepthCandidate, shapes: Shapes, dtypes: Mapping[str, str], how: str
) -> PlanData:
    """The plan for the big model, from the plan for the small model's leaves.

    Args:
      plan: for the leaves of the small model, and identity matrices, by their paths in the big one.
      candidate: the origins of the big model's leaves.
      shapes, dtypes: path in the big model -> shape, dtype.
      how: the operator for depth.
    """
    planned = {leaf.path: leaf for leaf in plan.leaves}
    leaves = []
    for path in shapes:
        layer = candidate.layers[path]
        twin = None if layer.source is None else planned[candidate.old[layer.source]]
        if path in candidate.eyes:
            leaf = with_rows_of_zeros(planned[path], shapes[path], layer.start)
            if twin is not None and leaf.small != twin.small and leaf is not planned[path]:
                layer = dataclasses.replace(layer, source=None)  # its moments do not fit
        elif twin is None or (layer.new and shapes[path] != shapes[twin.path]):
            leaf = unchanged(path, shapes[path], dtypes[path])
        elif layer.new and layer.becomes in IDENTITIES and shapes[path] != twin.small:
            # Its rows need not be split as the twin's are. At the big widths it is an identity too.
            leaf = unchanged(path, shapes[path], dtypes[path])
            layer = dataclasses.replace(layer, source=None)
        else:
            leaf = dataclasses.replace(twin, path=path, big=shapes[path])
        leaves.append(dataclasses.replace(leaf, layer=layer))
    return dataclasses.replace(plan, leaves=tuple(leaves), depth=how)


def not_alone(wide: Program, eyes: Mapping[str, int]) -> Conflict | None:
    """Why new layers are no identities if each of their matrices is one at the big widths.

    Those that grow from the small widths were square there. At the big ones a matrix may have more
    columns than rows, as long as the next one drops no more than was added.

    Args:
      wide: the simplified big program with products with identity matrices.
      eyes: leaf -> number of the input of `wide`, if it is an identity matrix.
    """
    matrices = {id(wide.ins[i]) for i in eyes.values()}
    kinds = (EYE, EYES, EYE_FIRST)
    chains: dict[int, tuple[Shape, Shape]] = {}  # a product -> the shape in front, and its own
    ends = {id(v) for v in wide.outs}
    dropped = False
    for eqn in wide.equations:
        if eqn.name in (CONSTANT, ROW) and id(eqn.ins[0]) in matrices:
            matrices.add(id(eqn.outs[0]))
        elif (
            len(eqn.ins) == 2
            and id(eqn.ins[1]) in matrices
            and any(product_with(eqn, what) for what in kinds)
        ):
            out = shape_of(eqn.outs[0])
            front = chains.get(id(eqn.ins[0]), (shape_of(eqn.ins[0]),))[0]
            dropped |= any(n > m for n, m in zip(front, out, strict=True))
            chains[id(eqn.outs[0])] = front, out
        else:
            ends.update(id(v) for v in eqn.ins)
    if not dropped and all(front == out for v, (front, out) in chains.items() if v in ends):
        return None
    return Conflict(
        f"{', '.join([*eyes][:4])} would have to be identity matrices that grow with the widths, "
        "which is not known of matrices in front of their inputs, or of rows of one array",
        "layers",
        params=tuple(eyes)[:6],
        hint="add layers with square matrices, or whose matrices are behind their inputs",
    )


def with_rows_of_zeros(leaf: LeafPlan, shape: Shape, start: int) -> LeafPlan:
    """The plan of a matrix with more rows, from that of the rows `start` and on that are a square.

    The zeros that are read besides may be of an axis that grows otherwise, or not at all. They are
    all there before growth, so that nothing has to be known of it.
    """
    more = shape[-2] - leaf.big[-2]
    if not more:
        return leaf
    axis = leaf.axes[-2]
    if axis is not None:
        parts = ("fixed", start), axis.structure, ("fixed", more - start)
        sides = [part != ("fixed", 0) for part in (parts[0], parts[2])]
        count = len(axis.splits)
        around = lambda middle, one: (*(one,) * sides[0], *middle, *(one,) * sides[1])
        axis = dataclasses.replace(
            axis,
            structure=("sum", *(part for part in parts if part != ("fixed", 0))),
            segments=around(axis.segments or (1.0,) * count, 1.0),
            splits=around(axis.splits, ()),
        )
    small = (*leaf.small[:-2], leaf.small[-2] + more, leaf.small[-1])
    axes = (*leaf.axes[:-2], axis, leaf.axes[-1])
    return dataclasses.replace(leaf, small=small, big=shape, axes=axes)


def idle_leaves(small: FlatModel, big: FlatModel, origins: Origins, new: list[str]) -> list[str]:
    """New leaves that the big program does not use, unless the small one does not either.

    A new layer may have some: what of its results is used depends on where it stands.
    """
    number = {name: i for i, name in enumerate(big.shapes)}
    seen = used(small.program), used(big.program)
    known = {name for i, name in enumerate(small.shapes) if i in seen[0]}
    old = {above for name in big.shapes if name not in new for above in _folders(name)}
    working = [set(_folders(name)) - old for name in new if number[name] in seen[1]]
    return [
        name
        for name in new
        if number[name] not in seen[1]
        and (origins[name].leaf or name) in {*known, name}
        and not any(modules & set(_folders(name)) for modules in working)
    ]


def _folders(name: str) -> list[str]:
    """The modules that a leaf is in, outermost first: "a/b/c" is in "a" and "a/b"."""
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def without_model(program: Program, place: int) -> Becomes:
    """The initial value of a leaf without a leaf to copy: 1 for factors, 0 for summands."""
    var = program.ins[place]
    if len(var.aval.shape) > 1:
        return "random"
    follows = {id(var)}
    for eqn in program.equations:
        if any(id(v) in follows for v in eqn.ins):
            if eqn.name == "mul":
                return "one"
            if eqn.name in ("add", "sub"):
                return "zero"
            if not (traits(eqn).move == "whole" or traits(eqn).same):
                break
            follows.add(id(eqn.outs[0]))
    return "random" if var.aval.shape else "one"
