"""A learning rate to begin with: the loss while the rate rises from step to step."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from trainkit._core import validation
from trainkit.data.loader import Loader
from trainkit.step.state import TrainState
from trainkit.transforms.state.named import get, set

PyTree = Any
SMOOTHED = 0.9  # the weight of what came before, in the mean of the losses
DIVERGED = 4.0  # times the best loss, above the least that there was


@dataclasses.dataclass(frozen=True)
class RateTest:
    """What `find_rate` found.

    Attributes:
      rates: of the steps that were made.
      losses: at these, as they were.
      smoothed: the same, as means over some ten steps.
      suggestion: the rate at which the smoothed loss fell most for the same factor of the rate;
        `None` where it never fell.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggestion: float | None

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Matplotlib axes with the losses against the rates; saved where there is a path."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, linewidth=0.8, alpha=0.4)
        axes.plot(self.rates, self.smoothed, linewidth=1.5)
        if self.suggestion is not None:
            axes.axvline(self.suggestion, linestyle="--", color="grey")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        if path is not None:
            figure.savefig(path)
        return axes


@validation.named_options
def find_rate(
    step: Any,
    state: TrainState,
    data: Any,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    rate: str | tuple[str, ...] = "learning_rate",
) -> RateTest:
    """Trains a copy of the state for some steps, with a rate that rises by the same factor each.

    It ends early where the loss has grown too much or is not finite. The rate has to be in the
    optimizer's state, as that of `tt.inject(tt.adamw(1e-3))`; state and data stay as they were.

    Args:
      step, state, data: as for `fit`; of an iterator the batches are used up.
      low, high: the first rate and the last.
      steps: how many there are.
      rate: the name of the rate, as `trainkit.transforms.get` has it.

    Raises:
      TypeError, ValueError: an option out of range. KeyError: no such rate.

    Smith, Cyclical Learning Rates for Training Neural Networks, 2017.
    """
    validation.number("low", low, "find_rate", above=0)
    validation.number("high", high, "find_rate", above=low)
    validation.integer("steps", steps, "find_rate", least=10)
    get(state, rate)  # named here, where it is missing
    place = getattr(data, "position", None)
    stream = data if hasattr(data, "__next__") else Loader(data)
    state = step.place(state)
    rates, losses, means, mean = [], [], [], 0.0
    for number, value in enumerate(np.geomspace(low, high, steps)):
        if (batch := next(stream, None)) is None:
            break
        state, metrics = step(set(state, rate, float(value)), batch)
        loss = float(jax.device_get(metrics["loss"]))
        if not math.isfinite(loss):
            break
        mean = SMOOTHED * mean + (1 - SMOOTHED) * loss
        rates.append(float(value))
        losses.append(loss)
        means.append(mean / (1 - SMOOTHED ** (number + 1)))
        if means[-1] - min(means) > DIVERGED * max(means[0] - min(means), abs(min(means))):
            break
    if hasattr(data, "restore"):
        data.restore(place)
    return RateTest(rates, losses, means, _steepest(rates, means))


def _steepest(rates: list[float], means: list[float]) -> float | None:
    """Where the loss falls most per factor of the rate, before its least."""
    least = int(np.argmin(means)) if means else 0
    if least < 2:
        return None
    falls = np.gradient(np.asarray(means[: least + 1]), np.log(rates[: least + 1]))
    return rates[int(np.argmin(falls))] if falls.min() < 0 else None
