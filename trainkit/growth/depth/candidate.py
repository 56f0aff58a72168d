"""One possible way to add layers, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trainkit.growth.depth.flat_model import FlatModel, Rows, Shape
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.program import Program
from trainkit.growth.ir.simplification.numbered_rows import NumberedRows, together
from trainkit.growth.plan.data import Layer


class DepthCandidate(NamedTuple):
    """One possible way to add layers.

    Attributes:
      layers: leaf of the big model -> its origin.
      old: leaf of the small model -> its name in the big one.
      shapes: leaf of the big model -> its shape with the small model's number of layers.
      small, big: the two programs, `big` without its new layers. `big` is `None` if new layers
        change the function and no width grows, so that nothing needs a proof.
      eyes: leaf of the big model that is an identity matrix -> its shape at the small widths.
        These are additional inputs of `small`.
      channels: the axes of further inputs of both programs, which come last: the results of new
        layers that are concatenated to old values, with no channels in `small`.
    """

    layers: dict[str, Layer]
    old: dict[str, str]
    shapes: dict[str, Shape]
    small: Program
    big: Program | None
    eyes: dict[str, Shape]
    channels: tuple[int, ...] = ()


def with_whole_leaves(
    candidate: DepthCandidate,
    models: tuple[FlatModel, FlatModel],
    rows: tuple[Rows, Rows],
) -> DepthCandidate | Conflict:
    """The candidate for leaves as they are, from that for their rows as leaves of their own.

    Args:
      candidate: for `row_by_row` of the models.
      models: the small and the big one, as they are.
      rows: what `more_rows` said of them.
    """
    small, big = models
    before, after = rows
    kept: dict[str, list[int]] = {}  # leaf -> its rows in the big model that are old
    layers, shapes = dict(candidate.layers), dict(candidate.shapes)
    for name, (axis, picks) in after.items():
        own = [f"{name}/{i}" for i in range(len(picks))]
        each = [layers.pop(row) for row in own]
        rest = [shapes.pop(row) for row in own]
        kept[name] = [i for i, row in enumerate(each) if not row.new]
        layer = _stacked(name, each, axis)
        if isinstance(layer, Conflict):
            return layer
        layers[name] = layer
        shape = rest[kept[name][0]]
        shapes[name] = (*shape[:axis], len(kept[name]), *shape[axis:])
    old = {leaf: there for leaf, there in candidate.old.items() if leaf in small.shapes}
    every = {name: range(len(picks)) for name, (_, picks) in before.items()}
    program = candidate.big
    if program is not None:
        program = together(program, _inputs(big, program, after, kept))
    return candidate._replace(
        layers={name: layers[name] for name in big.shapes},
        old=old | {name: name for name in after},
        shapes={name: shapes[name] for name in big.shapes},
        small=together(candidate.small, _inputs(small, candidate.small, before, every)),
        big=program,
    )


def _stacked(name: str, rows: Sequence[Layer], axis: int) -> Layer | Conflict:
    """The layer of a leaf, from those of its rows."""
    number = lambda layer: int(str(layer.source).rpartition("/")[2])
    own = [layer.source is None or layer.source.rpartition("/")[0] == name for layer in rows]
    old = [number(layer) for layer in rows if not layer.new]
    new = [dataclasses.replace(layer, source=None) for layer in rows if layer.new]
    what = {(layer.becomes, layer.cut, layer.parts): layer for layer in new}
    if not all(own) or old != sorted(old) or len(what) > 1 or any(layer.start for layer in new):
        return Conflict(
            f"the rows of {name} that belong to new layers would have to hold different things",
            "layers",
            params=(name,),
            hint="give what the layers have of it to each layer as a leaf of its own",
        )
    places: list[tuple[int, bool]] = []
    for layer in rows:
        before = places[-1][0] if places else 0
        places.append((before if layer.source is None else number(layer), layer.new))
    layer = next(iter(what.values()), rows[0])
    return dataclasses.replace(layer, source=name, new=False, axis=axis, rows=tuple(places))


def _inputs(
    model: FlatModel, program: Program, rows: Rows, kept: Mapping[str, Sequence[int]]
) -> Iterator[int | tuple[list[int], NumberedRows]]:
    """For each input of a model as it is, its number where rows are inputs, or those of its rows.

    Of the rows those that are `kept`.
    """
    start = 0
    for name, shape in model.shapes.items():
        if name in rows:
            yield [start + i for i in kept[name]], rows[name]
            start += shape[rows[name].axis]
        else:
            yield start
            start += 1
    yield from range(start, len(program.ins))
