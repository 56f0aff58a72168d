"""Why each leaf grows as it does, in words."""

from __future__ import annotations

import fractions
from collections.abc import Iterator, Sequence

from trainkit._core import validation
from trainkit._core.paths import compiled
from trainkit.growth.axes.layouts import padded, worded
from trainkit.growth.axes.structures import numbers_in
from trainkit.growth.plan.data import AxisPlan, Layer, LeafPlan, PlanData

SHOWN = 6  # leaves that are explained in full, and users of an axis that are named
LAYOUTS = {
    "repeat": "the copies of a unit are neighbours",
    "tile": "the whole axis repeats",
    "stride": "old unit i is at i·{ratio}, and the units between copy none",
    "stride end": "old unit i is at i·{ratio} + {ratio} − 1, and the units between copy none",
    "append": "the old units come first, and the new ones copy none",
    "row mean": "the old units come first, and the new ones copy none; a LayerNorm subtracts the "
    "mean, which the new units hold",
    "centre": "the old taps are in the middle",
}
BECOMES = {
    "copy": "it starts as a copy of {source} of the small model",
    "zero": "it starts at 0, so that the new layer adds nothing",
    "unit": "it starts at 1, so that the new layer changes nothing",
    "minus_one": "it starts at −1, which is added to 1, so that the new layer adds nothing",
    "eye": "it starts as an identity, so that the new layer changes nothing",
    "eye_first": "it starts as an identity, so that the new layer changes nothing",
    "eyes_first": "every member starts as an identity, so that the new layer changes nothing",
    "eyes": "every member starts as an identity, so that the new layer changes nothing",
    "one": "it starts at 1",
    "random": "it starts with random values, or those of `like=`",
}
PARTS = {
    "zero": "0",
    "unit": "1",
    "one": "1",
    "minus_one": "−1",
    "copy": "a copy",
    "random": "random",
}


def explain(plan: PlanData, leaf: str) -> str:
    """Says why leaves grow as they do; see `trainkit.growth.Plan.explain`."""
    validation.text("leaf", leaf, hint="give a leaf's path, or a regular expression for some")
    named = {each.path: each for each in plan.leaves}
    found = [named[leaf]] if leaf in named else _matching(leaf, named)
    text = [_Explanation(plan, each).text() for each in found[:SHOWN]]
    rest = [each.path for each in found[SHOWN:]]
    if rest:
        more = ", ".join(rest[:SHOWN]) + (" …" if len(rest) > SHOWN else "")
        text.append(f"and {len(rest)} more: {more}")
    return "\n\n".join(text)


def _matching(pattern: str, named: dict[str, LeafPlan]) -> list[LeafPlan]:
    (regex,) = compiled([pattern])
    found = [leaf for path, leaf in named.items() if regex.search(path)]
    if not found:
        ends = [path for path in named if path.split("/")[-1] == pattern.split("/")[-1]]
        near = f"; did you mean {ends[0]!r}?" if ends else validation.near(pattern, named)
        some = ", ".join([*named][:SHOWN]) + (" …" if len(named) > SHOWN else "")
        raise ValueError(f"leaf={pattern!r} is no leaf of the plan{near or '.'} There are: {some}.")
    return found


class _Explanation:
    """The words for one leaf."""

    def __init__(self, plan: PlanData, leaf: LeafPlan):
        self.plan, self.leaf = plan, leaf

    def text(self) -> str:
        leaf = self.leaf
        lines = [f"{leaf.path}: {_shape(leaf.small)} → {_shape(leaf.big)}, {leaf.dtype}"]
        if leaf.small == leaf.big:
            lines[0] = f"{leaf.path}: {_shape(leaf.small)}, {leaf.dtype}"
        lines += [f"used at {place}" for place in leaf.lines]
        lines += self._layer()
        for d in range(len(leaf.small)):
            lines += self._axis(d)
        return "\n  ".join([*lines, *self._factor()])

    def _layer(self) -> Iterator[str]:
        layer = self.leaf.layer
        if self.plan.depth == "experts" and layer is not None and layer.source is not None:
            yield f"each expert starts as a copy of {layer.source} of the dense model"
        elif layer is not None and layer.rows:
            rows = ", ".join(f"{old} (new)" if new else str(old) for old, new in layer.rows)
            yield f"stacked over layers along axis {layer.axis}, from the old layers {rows}"
            if any(new for _, new in layer.rows):
                yield "new layers: " + _starts(layer, "those old layers")
        elif layer is not None and layer.new:
            yield "in a new layer: " + _starts(layer, layer.source)

    def _axis(self, d: int) -> Iterator[str]:
        leaf, axis = self.leaf, self.leaf.axes[d]
        numbers = sorted(numbers_in(axis.structure)) if axis else []
        if axis is None or not numbers:
            if leaf.small[d] == leaf.big[d]:
                yield f"axis {d} ({leaf.small[d]}) does not grow"
            return
        simple = axis.structure[0] == "leaf"
        sizes = f"axis {d}, {leaf.small[d]} → {leaf.big[d]}"
        if not simple:
            yield f"{sizes}, made of several parts"
        for n in numbers:
            grown = self.plan.grown_axes[n]
            layout = "old unit i is at place i of these, and the other units copy none"
            if not padded(grown.layout):
                layout = "old unit i has as many neighbouring copies as its number here says"
            if isinstance(grown.layout, str):
                layout = LAYOUTS[grown.layout].format(ratio=grown.big // max(grown.small, 1))
            part = sizes if simple else f"  a part {grown.small} → {grown.big}"
            yield f"{part} ({worded(grown.layout)}): {layout}"
            for line in self._grown(axis, n):
                yield f"  {line}" if simple else f"    {line}"

    def _grown(self, axis: AxisPlan, n: int) -> Iterator[str]:
        grown = self.plan.grown_axes[n]
        writers, readers = self._users(n)
        role = "reads" if n in axis.reads else "writes"
        role = "writes and reads" if n in axis.tied else role
        yield f"this leaf {role} these units"
        both = " (where a leaf that also writes is named)" if padded(grown.layout) else ""
        more = "; contracted in a product of activations" if grown.paired else ""
        yield f"written by {_some(writers)}; read by {_some(readers)}{both}{more}"
        if any(n in segment for segment in axis.splits):
            yield "its weights are split over the copies of a unit: their shares add up to 1"
        elif not padded(grown.layout):
            yield "its weights are repeated for every copy of a unit"
        else:
            yield f"in the new units it holds {self._held(axis, n)}"
        if n in axis.ordered:
            yield "copies get equal noise: `top_k` orders them, or they multiply other noise"

    def _held(self, axis: AxisPlan, n: int) -> str:
        if n in axis.means:
            return "the mean of the old ones"
        if n not in axis.fresh:
            return "0, so that they change nothing"
        if self.plan.grown_axes[n].fill == "mean" or len(self.leaf.small) < 2:
            return "the mean of the old ones (any value keeps the function)"
        return "random values (any value keeps the function)"

    def _users(self, n: int) -> tuple[list[str], list[str]]:
        writers: list[str] = []
        readers: list[str] = []
        for leaf in self.plan.leaves:
            for d, axis in enumerate(leaf.axes):
                if axis is None or n not in numbers_in(axis.structure):
                    continue
                if n in axis.reads:
                    readers.append(f"{leaf.path}[{d}]")
                if n not in axis.reads or n in axis.tied:
                    writers.append(f"{leaf.path}[{d}]")
        return writers, readers

    def _factor(self) -> Iterator[str]:
        leaf = self.leaf
        factors = {leaf.weight * s for a in leaf.axes if a for s in a.segments} or {leaf.weight}
        shown = " or ".join(_number(x) for x in sorted(factors))
        what = f"on w + {leaf.shift:g}" if leaf.shift else "on its weights"
        split = [_copies(self.plan, n) for n in sorted(leaf.splits)]
        from_splits = f" (split over {' × '.join(split)} copies)" if split else ""
        if leaf.reason:
            yield f"factor {shown} {what}{from_splits}: {leaf.reason}"
        elif factors != {1.0}:
            yield f"factor {shown} {what}{from_splits}"
        if leaf.calibrated:
            yield "its gradient is no known multiple of the old one: moments are a best guess"


def _starts(layer: Layer, source: str | None) -> str:
    """What a leaf of a new layer starts with."""
    if layer.becomes != "parts":
        return BECOMES[layer.becomes].format(source=source)
    each = ", ".join(f"{PARTS[what]} ({size})" for size, what in layer.parts)
    return f"its parts along axis {layer.cut} start differently, so that nothing changes: {each}"


def _copies(plan: PlanData, n: int) -> str:
    grown = plan.grown_axes[n]
    if not isinstance(grown.layout, str):
        return f"{min(grown.layout[1:])} to {max(grown.layout[1:])}"
    each, more = divmod(grown.big, grown.small)
    return f"{each} or {each + 1}" if more else str(each)


def _number(x: float) -> str:
    near = fractions.Fraction(x).limit_denominator(64)
    exact = near.denominator > 1 and abs(near / x - 1) < 1e-12 if x else False
    return f"{x:.6g} = {near}" if exact else f"{x:.6g}"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN]) or "no leaf"
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
