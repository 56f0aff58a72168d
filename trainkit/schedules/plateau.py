"""Reactions to a validation metric, as pure state: reduce on plateau, early stopping."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation


class PlateauState(NamedTuple):
    """State of `reduce_on_plateau`.

    Attributes:
      best: float scalar, the best metric so far.
      waited: int32 scalar, evaluations since the last improvement.
      cooling: int32 scalar, remaining evaluations of the cooldown.
      scale: float scalar, the factor on the learning rate.
      reductions: int32 scalar, the number of reductions.
    """

    best: jax.Array
    waited: jax.Array
    cooling: jax.Array
    scale: jax.Array
    reductions: jax.Array


class StoppingState(NamedTuple):
    """State of `early_stopping`.

    Attributes:
      best: float scalar, the best metric so far.
      best_at: int32 scalar, the number of the best evaluation (0 is the first, −1 none).
      evaluations: int32 scalar, the number of evaluations.
      waited: int32 scalar, evaluations since the last improvement.
      stop: bool scalar, whether to stop; it stays true.
    """

    best: jax.Array
    best_at: jax.Array
    evaluations: jax.Array
    waited: jax.Array
    stop: jax.Array


def _better(metric: Any, best: jax.Array, mode: str, min_delta: float) -> tuple[Any, Any]:
    scalar = np.ndim(metric) == 0 and not isinstance(metric, str)
    if not scalar or not isinstance(metric, jax.Array | np.generic | int | float):
        raise TypeError(f"metric must be a number, the value of one evaluation, not {metric!r}.")
    # NaN compares as not better, whichever way.
    metric = jnp.asarray(metric).astype(best.dtype)
    better = metric < best - min_delta if mode == "min" else metric > best + min_delta
    return better, jnp.where(better, metric, best)


def _worst(mode: str) -> jax.Array:
    return jnp.asarray(jnp.inf if mode == "min" else -jnp.inf, jnp.result_type(float))


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


@dataclasses.dataclass(frozen=True)
class reduce_on_plateau:
    """Multiplies the rate by `factor` after `patience` evaluations without improvement.

    `init()` returns the first state, and `update(state, metric)` the next one. Both are pure,
    jittable and vmappable. Multiply the initial rate by `state.scale`, for instance with
    `transforms.set(opt_state, "learning_rate", rate * state.scale)`.

    An evaluation improves if it is better than the best by more than `min_delta`; NaN is never
    better. The rate is reduced *at* the patience-th evaluation in a row without improvement, as in
    Keras (PyTorch waits for one more). The next `cooldown` evaluations are not counted, and the
    scale does not fall below `min_scale`. Optax: `optax.contrib.reduce_on_plateau`, a
    transformation that needs the metric at every update.

    Raises:
      ValueError: a factor outside (0, 1), patience below 1, a negative min_delta, cooldown or
        min_scale, or an unknown mode.

    >>> plateau = reduce_on_plateau(factor=0.2, patience=2)
    >>> state = plateau.init()
    >>> for loss in (1.0, 1.1, 1.2):
    ...     state = plateau.update(state, loss)
    >>> print(state.scale)
    0.2
    """

    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    mode: Literal["min", "max"] = "min"
    cooldown: int = 0
    min_scale: float = 0.0

    def __post_init__(self) -> None:
        of = "reduce_on_plateau"
        validation.number("factor", self.factor, of, above=0, below=1)
        validation.integer("patience", self.patience, of)
        validation.integer("cooldown", self.cooldown, of, least=0)
        validation.number("min_delta", self.min_delta, of, least=0)
        validation.number("min_scale", self.min_scale, of, least=0)
        validation.choice("mode", self.mode, ("min", "max"), of)

    def init(self) -> PlateauState:
        """The state before the first evaluation."""
        one = jnp.ones((), jnp.result_type(float))
        return PlateauState(_worst(self.mode), _zero(), _zero(), one, _zero())

    def update(self, state: PlateauState, metric: Any) -> PlateauState:
        """The state after an evaluation with the result `metric`."""
        better, best = _better(metric, state.best, self.mode, self.min_delta)
        cold = state.cooling > 0
        waited = jnp.where(better | cold, 0, state.waited + 1)
        reduce = waited >= self.patience
        lower = jnp.maximum(state.scale * self.factor, self.min_scale)
        return PlateauState(
            best=best,
            waited=jnp.where(reduce, 0, waited),
            cooling=jnp.where(reduce, self.cooldown, jnp.maximum(state.cooling - 1, 0)),
            # A scale that is already below the minimum does not change.
            scale=jnp.where(reduce, jnp.minimum(lower, state.scale), state.scale),
            reductions=state.reductions + reduce.astype(jnp.int32),
        )


@dataclasses.dataclass(frozen=True)
class early_stopping:
    """Sets `stop` after `patience` evaluations in a row without improvement.

    `init()` returns the first state, and `update(state, metric)` the next one. `state.stop` says
    whether to stop, and `state.best_at` which evaluation to restore. Pure, jittable and vmappable.

    Raises:
      ValueError: patience below 1, a negative min_delta, or an unknown mode.

    >>> stopping = early_stopping(patience=2, mode="max")
    >>> state = stopping.init()
    >>> for accuracy in (0.8, 0.9, 0.85, 0.9):
    ...     state = stopping.update(state, accuracy)
    >>> bool(state.stop), int(state.best_at)
    (True, 1)

    Prechelt, Early Stopping - But When?, 1998.
    """

    patience: int = 10
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        validation.integer("patience", self.patience, "early_stopping")
        validation.number("min_delta", self.min_delta, "early_stopping", least=0)
        validation.choice("mode", self.mode, ("min", "max"), "early_stopping")

    def init(self) -> StoppingState:
        """The state before the first evaluation."""
        return StoppingState(
            _worst(self.mode), _zero() - 1, _zero(), _zero(), jnp.zeros((), jnp.bool)
        )

    def update(self, state: StoppingState, metric: Any) -> StoppingState:
        """The state after an evaluation with the result `metric`."""
        better, best = _better(metric, state.best, self.mode, self.min_delta)
        waited = jnp.where(better, 0, state.waited + 1)
        return StoppingState(
            best=best,
            best_at=jnp.where(better, state.evaluations, state.best_at),
            evaluations=state.evaluations + 1,
            waited=waited,
            stop=state.stop | (waited >= self.patience),
        )
