"""A learning rate that is reduced when an evaluation metric stops improving."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from trainkit._core import validation
from trainkit.loop.hooks import Change, Now
from trainkit.schedules.plateau import PlateauState, reduce_on_plateau
from trainkit.transforms.state.named import get, set


class ReduceOnPlateau:
    """Multiplies a learning rate by `factor` after `patience` evaluations without improvement.

    The rate has to be in the optimizer's state, as that of `tt.inject(tt.adamw(1e-3))`,
    `tt.named(adam=tt.adamw(1e-3))` or `tt.groups`, and not be a schedule.

    Args:
      metric: a name in the evaluation's metrics.
      rate: the name of the rate, or a list of names, as `trainkit.transforms.get` has them.
      factor, patience, min_delta, mode, cooldown, min_scale: as for
        `trainkit.schedules.reduce_on_plateau`.

    Raises:
      TypeError, ValueError: an unknown option, or one of another kind or out of range.
    """

    alike = True  # evaluations are the same in all processes

    @validation.named_options
    def __init__(
        self,
        metric: str = "loss",
        *,
        rate: str | tuple[str, ...] | list[Any] = "learning_rate",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        mode: Literal["min", "max"] = "min",
        cooldown: int = 0,
        min_scale: float = 0.0,
    ):
        validation.text("metric", metric, "ReduceOnPlateau")
        self.metric, self.rates = metric, rate if isinstance(rate, list) else [rate]
        for name in self.rates:
            if not isinstance(name, tuple):
                validation.text("rate", name, "ReduceOnPlateau", "give the name of a learning rate")
        self._plateau = reduce_on_plateau(factor, patience, min_delta, mode, cooldown, min_scale)
        self._state = self._plateau.init()

    def __call__(self, now: Now) -> Change | None:
        """After an evaluation, the state with the rate that is now in force."""
        if not now.evaluated:
            return None
        if self.metric not in now.evaluation:
            raise ValueError(
                f"ReduceOnPlateau: the evaluation has no metric {self.metric!r}; it has "
                f"{', '.join(sorted(now.evaluation))}."
            )
        before = self._state
        self._state = self._plateau.update(before, now.evaluation[self.metric])
        share = float(self._state.scale / before.scale) if before.scale else 1.0
        if share == 1.0:
            return None
        state = now.state
        for name in self.rates:
            state = set(state, name, get(state, name) * share)
        scale = float(self._state.scale)
        return Change(state=state, event={"event": "plateau", "learning_rate_scale": scale})

    def save(self) -> list[float]:
        """What it remembers."""
        return [float(value) for value in jax.device_get(self._state)]

    def load(self, saved: list[float]) -> None:
        """Takes its memory back."""
        like = self._plateau.init()
        pairs = zip(saved, like, strict=True)
        self._state = PlateauState(*(jnp.asarray(value, old.dtype) for value, old in pairs))
