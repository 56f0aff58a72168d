"""Plots of schedules."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation
from trainkit.schedules.steps import Schedule


def plot(
    schedules: Schedule | Sequence[Schedule] | Mapping[str, Schedule],
    steps: int,
    *,
    path: str | os.PathLike[str] | None = None,
    log: bool = False,
    ax: Any = None,
) -> Any:
    """Plots one or several schedules over the first `steps` steps.

    Args:
      schedules: a schedule, a sequence of schedules, or a mapping from names to schedules.
      steps: the number of steps to plot, from 0.
      path: the file for the picture, whose suffix is the format; `None`: not saved.
      log: whether the value axis is logarithmic.
      ax: Matplotlib axes to plot into; `None`: a new figure.

    Returns:
      The Matplotlib axes; `.figure` is the figure. No window is opened.

    >>> from trainkit import schedules
    >>> axes = schedules.plot({"wsd": schedules.wsd(1.0, warmup=10, decay=20, decay_start=70)}, 100)
    >>> axes.get_xlabel()
    'step'
    """
    validation.integer("steps", steps, "plot")
    if isinstance(schedules, Mapping):
        lines = dict(schedules)
    elif callable(schedules):
        lines = {"": schedules}
    else:
        validation.listed("schedules", schedules, "[cosine(1.0, 90)]", "plot")
        lines = {str(i): s for i, s in enumerate(schedules)}
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    # A few thousand points are enough for a plot.
    t = np.unique(np.linspace(0, steps - 1, min(steps, 4096)).astype(np.int32))
    for name, schedule in lines.items():
        values = jax.vmap(schedule)(jnp.asarray(t))
        ax.plot(t, np.asarray(values), label=name or None, linewidth=1.5)
    ax.set_xlabel("step")
    ax.set_ylabel("value")
    if log:
        ax.set_yscale("log")
    if any(lines):
        ax.legend(frameon=False)
    if path is not None:
        ax.figure.savefig(path)
    return ax
