"""Plots of runs as SVG text: plain data in, no files, no state of matplotlib left behind.

Lines and text of the axes are drawn in the page's own colours, so that one picture is right on
a light and on a dark page.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# Strangers to every picture, put in so that they can be found and replaced by the page's own.
_INK, _FAINT = "#010203", "#010204"
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)"}
COLOURS = ("#3b7dd8", "#e07b39", "#2f9e75", "#b455c4", "#d0475c", "#8a7a2f", "#4aa3b5", "#7a6ff0")
# Labels of events stand in so many rows at most; where there is no room for one, it is left out.
ROWS = 4
FEW = 20  # values that are not smoothed, unless another curve of the plot is


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
      label: in the legend.
      x, y: of the same length; values that are not finite are left out.
      points: whether to mark the values (few of them, as of evaluations).
      smooth: whether to draw the values faintly with their running mean over them.
      colour: of its own; by default the next one.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False
    smooth: bool = False
    colour: str | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """A moment to mark with a vertical line, such as a growth.

    Attributes:
      x: when it was.
      label: stands above the plot; `""` for none.
      colour: of the line; that of the axes by default.
    """

    x: float
    label: str
    colour: str | None = None


def plot(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    log_x: bool = False,
    log_y: bool = False,
    events: Sequence[Event] = (),
    legend: bool = True,
    size: tuple[float, float] = (4.6, 2.9),
) -> str:
    """An `<svg>` element with the curves in it, to be put into a page.

    Args:
      curves: drawn in the order given, each in its own colour.
      title: of the plot; screen readers get it too.
      x_label: what the horizontal axis counts.
      log_x, log_y: whether the axis is logarithmic.
      events: moments to mark.
      legend: whether several curves are named, below the plot.
      size: in inches.

    >>> svg = plot([Curve("loss", [1, 2], [0.5, 0.25])], title="Loss", x_label="steps")
    >>> svg.startswith("<svg"), "http" in svg
    (True, False)
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Ids that no other picture of the page has.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title + x_label}):
        # A figure of its own: pyplot would keep it, and choose a window system.
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        window = _window(curves)
        for number, curve in enumerate(curves):
            _draw(axes, curve, curve.colour or COLOURS[number % len(COLOURS)], window)
        axes.set_xlabel(x_label)
        positive = any(value > 0 for curve in curves for value in curve.y)
        _scale_y(axes, log=log_y and positive)
        axes.grid(True, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", length=0)
        axes.margins(x=0.02)
        _scale_x(axes, log=log_x)
        above = _mark(axes, events, size[0])
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=6 + above)
        if legend and len(curves) > 1:
            # Outside of the axes, where it covers no curve.
            figure.legend(loc="outside lower left", frameon=False, fontsize=8, ncols=2)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_a_page(text.getvalue(), title)


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and follows the page
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
}


def _mark(axes: Any, events: Sequence[Event], inches: float) -> int:
    """Draws lines, with their labels above the axes; returns the height of these in points."""
    size = 8
    letter = 0.6 * size / (0.85 * inches * 72)  # the width of one, as a share of the axes'
    ends: list[float] = []  # of the last label in each row
    for event in events:  # first, because they may widen the axis
        colour = event.colour or _INK
        axes.axvline(event.x, color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
    for event in sorted(events, key=lambda event: event.x):
        if not event.label:
            continue
        at = axes.transLimits.transform(axes.transScale.transform((event.x, 1.0)))[0]
        half = letter * (len(event.label) + 1) / 2
        row = next((k for k, end in enumerate(ends) if at - half > end), len(ends))
        if row == ROWS:
            continue
        ends[row : row + 1] = [at + half]
        axes.annotate(
            event.label,
            (event.x, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2 + (size + 2) * row),
            textcoords="offset points",
            ha="center",
            fontsize=size,
            color=event.colour or _INK,
        )
    return (size + 2) * len(ends)


def _scale_y(axes: Any, log: bool) -> None:
    from matplotlib import ticker

    if log:
        axes.set_yscale("log")
        # 0.02, 0.05, 0.1 are read faster than 2 × 10⁻²; over many decades each has only one.
        low, high = axes.get_ylim()
        between = (1.0, 2.0, 5.0) if high < 150 * low else (1.0,)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=between))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        return
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    largest = max(abs(value) for value in axes.get_ylim())
    if largest >= 1e4:
        axes.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    elif largest < 1e-2:
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.3g}"))


def _scale_x(axes: Any, log: bool) -> None:
    from matplotlib import ticker

    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    # 12k and 3M, but never "600m".
    eng = ticker.EngFormatter(sep="")
    shown = lambda value, _: eng(value) if abs(value) >= 1e3 else f"{value:g}"
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(shown))


def _window(curves: Sequence[Curve]) -> float:
    """Half the window of all smooth curves: a twentieth of the shortest of more than a few values.

    One for all: with windows of their own the same values would be drawn as different curves.
    """
    ends = [x[[0, -1]] for x, _ in map(_finite, (c for c in curves if c.smooth)) if len(x) > FEW]
    return min((float(last - first) / 20 for first, last in ends), default=0.0)


def _finite(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    kept = np.isfinite(x) & np.isfinite(y)
    return x[kept], y[kept]


def _draw(axes, curve: Curve, colour: str, window: float) -> None:
    x, y = _finite(curve)
    if curve.smooth and window and len(x) > 1:
        axes.plot(x, y, color=colour, alpha=0.35, linewidth=0.8)
        axes.plot(x, running_mean(x, y, window), color=colour, label=curve.label, linewidth=1.6)
    else:
        marker = {"marker": "o", "markersize": 3.5} if curve.points or len(x) == 1 else {}
        axes.plot(x, y, color=colour, label=curve.label, linewidth=1.6, **marker)


def running_mean(x: np.ndarray, values: np.ndarray, reach: float) -> np.ndarray:
    """The mean of the values whose x, in ascending order, is at most `reach` away.

    >>> running_mean(np.arange(4.0), np.array([0.0, 3.0, 6.0, 3.0]), 1.0)
    array([1.5, 3. , 4. , 4.5])
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    reach *= 1 + 1e-9  # a distance of just this, rounded, is within
    first = np.searchsorted(x, x - reach, "left")
    last = np.searchsorted(x, x + reach, "right")
    return (sums[last] - sums[first]) / (last - first)


def _for_a_page(svg: str, title: str) -> str:
    """The element alone: no declaration, metadata or address, its colours the page's own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # The page gives the size; the view box keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def spans_decades(values: Sequence[float]) -> bool:
    """Whether positive values differ so much that a logarithmic axis shows them better."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    return len(positive) > 1 and max(positive) > 30 * min(positive)
