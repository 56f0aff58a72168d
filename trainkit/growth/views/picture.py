"""A picture of a plan: each parameter as a rectangle whose edges have the colours of its axes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainkit.growth.axes.structures import numbers_in
from trainkit.growth.plan.data import LeafPlan, PlanData

COLOURS = ["#3b6fb6", "#d1742f", "#3d9a5b", "#a14f9e", "#b8a02a", "#5aa9b5", "#8a5a44", "#d06a8c"]
INK, FIXED, PAPER = "#333333", "#c8c8c8", "#f4f2ee"
WIDE, HIGH, GAP, ROW = 2.6, 2.0, 0.65, 18.0  # the largest rectangle, and the length of a row


def draw(
    plan: PlanData,
    *,
    leaves: Sequence[str] | None = None,
    names: Mapping[tuple[int, int], str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draws the parameters of a plan; see `trainkit.growth.Plan.draw`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = _chosen(plan, leaves)
    figure = Figure()
    FigureCanvasAgg(figure)
    picture = _Picture(figure.add_axes((0, 0, 1, 1)), _scale(leaf for leaf, _ in drawn))
    for leaf, count in drawn:
        picture.leaf(leaf, count)
    picture.legend(plan, [leaf for leaf, _ in drawn], names or {})
    figure.set_size_inches(picture.finish())
    if path is not None:
        figure.savefig(path, bbox_inches="tight", dpi=110)
    return figure


def _chosen(plan: PlanData, leaves: Sequence[str] | None) -> list[tuple[LeafPlan, int]]:
    """The leaves to draw, and how many each stands for: layers that grow alike are drawn once."""
    named = {leaf.path: leaf for leaf in plan.leaves}
    if leaves is not None:
        for path in leaves:
            if path not in named:
                raise ValueError(f"leaves: {path!r} is no leaf of the plan: {', '.join(named)}.")
        return [(named[path], 1) for path in leaves]
    alike: dict[Any, list[LeafPlan]] = {}
    for leaf in plan.leaves:
        key = re.sub(r"\d+", "*", leaf.path), leaf.small, leaf.big, leaf.weight, leaf.new
        alike.setdefault(key, []).append(leaf)
    return [(group[0], len(group)) for group in alike.values()]


def _scale(leaves: Any) -> float:
    """Inches a unit, such that the largest leaf fits; sides are drawn as square roots."""
    sides = [max(_sides(leaf)) for leaf in leaves]
    return WIDE / math.sqrt(max(sides, default=1))


def _sides(leaf: LeafPlan) -> tuple[int, int]:
    """Rows (0 for a vector) and columns of a leaf as a matrix."""
    if len(leaf.small) < 2:
        return 0, max(leaf.small, default=1)
    return leaf.small[0], math.prod(leaf.small[1:])


def colour(number: int) -> str:
    """The colour of a grown axis."""
    return COLOURS[number % len(COLOURS)]


class _Picture:
    """Leaves from left to right, in rows, on Matplotlib axes."""

    def __init__(self, ax: Any, scale: float):
        self.ax, self.scale = ax, scale
        self.x = self.y = self.right = self.lowest = 0.0

    def bar(self, x: float, y: float, wide: float, high: float, fill: str, edge: Any = None) -> Any:
        from matplotlib.patches import Rectangle

        patch = Rectangle((x, y), wide, high, facecolor=fill, edgecolor=edge, lw=0.8)
        return self.ax.add_patch(patch)

    def leaf(self, leaf: LeafPlan, count: int) -> None:
        """One parameter; the edge of a new one is dashed."""
        rows, columns = _sides(leaf)
        wide = max(math.sqrt(columns) * self.scale, 0.35)
        high = min(max(math.sqrt(rows) * self.scale, 0.3), HIGH)
        name = leaf.path if count == 1 else f"{re.sub(r'[0-9]+', '*', leaf.path)} ({count}×)"
        room = max(wide, 0.105 * max(len(name), 12))
        if self.x and self.x + room > ROW:
            self.x, self.y = 0.0, self.lowest - 1.6
        x, y = self.x, self.y
        self.bar(x, y - high, wide, high, PAPER, INK).set_linestyle("--" if leaf.new else "-")
        first, *others = self._colours(leaf) or [[]]
        top = [c for axis in others for c in axis] if rows else first
        for j, c in enumerate(top or [FIXED]):
            part = wide / len(top or [FIXED])
            self.bar(x + j * part, y + 0.03, part, 0.13, c)
        for j, c in enumerate(first or [FIXED] if rows else []):
            part = high / len(first or [FIXED])
            self.bar(x - 0.16, y - (j + 1) * part, 0.13, part, c)
        self.ax.text(x, y + 0.27, name, ha="left", va="bottom", fontsize=8, color=INK)
        small, big = ("×".join(map(str, shape)) or "scalar" for shape in (leaf.small, leaf.big))
        text = f"{small}\n→ {big}\n× {leaf.weight:.4g}" if leaf.small != leaf.big else small
        if leaf.layer is not None and leaf.new:
            text += f"\nnew: {leaf.layer.becomes}"
        self.ax.text(x, y - high - 0.08, text, ha="left", va="top", fontsize=7, color=INK)
        self.lowest = min(self.lowest, y - high - 0.7)
        self.x += room + GAP
        self.right = max(self.right, self.x)

    def _colours(self, leaf: LeafPlan) -> list[list[str]]:
        structures = [None if axis is None else axis.structure for axis in leaf.axes]
        return [[colour(n) for n in sorted(numbers_in(s))] for s in structures]

    def legend(
        self, plan: PlanData, leaves: Sequence[LeafPlan], names: Mapping[tuple[int, int], str]
    ) -> None:
        """The grown axes that are drawn, below the leaves."""
        used = {n for leaf in leaves for a in leaf.axes if a for n in numbers_in(a.structure)}
        shown = [(colour(n), plan.grown_axes[n]) for n in sorted(used)]
        texts = [(c, f"{g.small} → {g.big}", names.get((g.small, g.big))) for c, g in shown]
        self.x, self.y = 0.0, self.lowest - 0.7
        for c, sizes, name in [*texts, (FIXED, "does not grow", None)]:
            text = f"{name}, {sizes}" if name else sizes
            if self.x + 4 > ROW:
                self.x, self.y = 0.0, self.y - 0.4
            self.bar(self.x, self.y, 0.3, 0.2, c)
            self.ax.text(self.x + 0.4, self.y + 0.1, text, va="center", fontsize=8, color=INK)
            self.x += 1.2 + 0.115 * len(text)
            self.right = max(self.right, self.x)

    def finish(self) -> tuple[float, float]:
        """Sets the limits; returns the size of the figure in inches."""
        self.ax.set_xlim(-0.3, self.right)
        self.ax.set_ylim(self.y - 0.2, 0.6)
        self.ax.set_aspect("equal")
        self.ax.axis("off")
        return self.right * 0.62, (0.8 - self.y) * 0.62
