"""The non-finite guard: skips and counts non-finite steps, with a limit; the loss scale."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trainkit.step.precision import Precision


class NonFiniteError(FloatingPointError):
    """More steps in a row than `skip_nonfinite` allows had a gradient that is not finite."""


@dataclasses.dataclass(frozen=True)
class Guard:
    """Whether non-finite steps are skipped, how many in a row at most, and the loss scale.

    Its counters are in `TrainState.guard`, so they are saved and restored with the state.
    """

    skip: bool
    limit: int | None
    precision: Precision

    @classmethod
    def of(cls, skip_nonfinite: bool | int, precision: Precision) -> Guard:
        limit = None if isinstance(skip_nonfinite, bool) else skip_nonfinite
        skip = limit is not None or skip_nonfinite is True or precision.dynamic is not None
        return cls(skip, limit, precision)

    def init(self, old: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The initial counters; values in `old` are kept."""
        new: dict[str, jax.Array] = {}
        if self.skip:
            new |= {"skipped": jnp.zeros((), jnp.int32), "in_a_row": jnp.zeros((), jnp.int32)}
        if (dynamic := self.precision.dynamic) is not None:
            new |= {
                "loss_scale": jnp.asarray(dynamic.initial, jnp.float32),
                "finite_in_a_row": jnp.zeros((), jnp.int32),
            }
        return {name: old.get(name, value) for name, value in new.items()}

    def scale(self, guard: Mapping[str, jax.Array]) -> jax.Array | None:
        """The loss scale; `None` without loss scaling."""
        if self.precision.loss_scale is None:
            return None
        if self.precision.dynamic is None:
            return jnp.asarray(self.precision.loss_scale, jnp.float32)
        return guard["loss_scale"]

    def advance(self, guard: Mapping[str, jax.Array], finite: jax.Array) -> dict[str, jax.Array]:
        """The counters after a step."""
        new = dict(guard)
        if self.skip:
            skipped = jnp.where(finite, 0, 1).astype(jnp.int32)
            new["skipped"] = guard["skipped"] + skipped
            new["in_a_row"] = jnp.where(finite, 0, guard["in_a_row"] + 1).astype(jnp.int32)
        if (dynamic := self.precision.dynamic) is not None:
            scale, good = guard["loss_scale"], guard["finite_in_a_row"] + 1
            grow = good >= dynamic.interval
            up = jnp.where(grow, scale * dynamic.factor, scale)
            # A scale that overflowed would multiply every later loss by infinity.
            up = jnp.where(jnp.isfinite(up), up, scale)
            down = jnp.maximum(scale / dynamic.factor, 1.0)
            new["loss_scale"] = jnp.where(finite, up, down)
            new["finite_in_a_row"] = jnp.where(finite & ~grow, good, 0).astype(jnp.int32)
        return new

    def of_replicas(
        self,
        before: Mapping[str, jax.Array],
        after: Mapping[str, jax.Array],
        axes: tuple[str, ...],
    ) -> dict[str, jax.Array]:
        """The counters of replicas that were at `before` together, and took steps apart.

        Skipped steps are those of all, in a row of the worst; the loss scale is the smallest.
        """

        def joined(name: str, x: jax.Array) -> jax.Array:
            if name == "skipped":
                start = before.get(name, jnp.zeros_like(x))
                return start + jax.lax.psum(x - start, axes)
            return (jax.lax.pmax if name == "in_a_row" else jax.lax.pmin)(x, axes)

        return {name: joined(name, x) for name, x in after.items()}


class Limit:
    """Raises when a count exceeds the limit, without waiting for the device at each step."""

    # The number of counts that may be pending before the oldest is waited for. It bounds the delay
    # of the error, and is large enough to keep the device busy.
    LAG = 2

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._counts: collections.deque[Any] = collections.deque()

    def add(self, count: jax.Array) -> None:
        """Adds the number of steps skipped in a row, after each step of a call."""
        self._counts.append(count)

    def check(self, wait: bool) -> None:
        """Checks the counts that are ready; with `wait`, all counts."""
        while self._counts and (wait or len(self._counts) > self.LAG or self._counts[0].is_ready()):
            worst = int(jax.device_get(self._counts.popleft()).max())
            if self._limit is not None and worst > self._limit:
                self._counts.clear()
                raise NonFiniteError(
                    f"{worst} steps in a row had a loss or a gradient that is not finite, more "
                    f"than skip_nonfinite={self._limit} allows. They were skipped: parameters and "
                    "optimizer state are as before them. Lower the learning rate, clip the "
                    "gradients, or check the data of these steps."
                )
