"""Rows of metrics, written without making the host wait for the device."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.run_files import ROW
from trainkit._core.validation import steps
from trainkit.cost import peak_flops
from trainkit.loop.metrics_log import MetricsLog
from trainkit.loop.record import Record


class RunLog:
    """Writes rows; a training row only when its values have had time to arrive.

    A row of training metrics is kept back until the next is due, some dozens of steps later:
    by then the device has long computed it, and fetching it does not stop the stream of steps.

    Attributes:
      bad_loss: which logged loss was not finite, if one was.
      latest, latest_at: the training metrics that were fetched last, and the step that they are of.
      compile_seconds: how long compiling took, over all sessions.
      flops_per_step: FLOPs of an optimizer step over all devices; 0 where unknown.

    Args:
      log: where rows go.
      record: where the run is.
      losses_may_fail: whether the step leaves those out that are not finite.
    """

    def __init__(self, log: MetricsLog | None, record: Record, losses_may_fail: bool = False):
        self._log = log
        self._losses_may_fail = losses_may_fail
        self.bad_loss: str | None = None
        self._pending: tuple[Record, Mapping[str, Any]] | None = None
        self._unlogged: tuple[Record, Mapping[str, Any], float] | None = None
        self._measured = False
        self._clock: tuple[float, int, int] | None = None
        self.flops_per_step = 0.0
        self._paused = 0.0
        self.latest: dict[str, float] = dict(record.train)
        self.latest_at = record.train_at
        self.compile_seconds = self.latest.get("compile_seconds", 0.0)

    def start_or_pause(self, record: Record, compiling: float) -> None:
        """Begins to measure speed at the first step; later ones compile at nobody's cost."""
        if self._clock is None:
            self._start_clock(record)
        else:
            self.pause(compiling)

    def _start_clock(self, record: Record) -> None:
        self._clock = time.perf_counter(), record.examples, record.step
        self._paused = 0.0

    def pause(self, seconds: float) -> None:
        """Leaves out time that was spent on something else than training."""
        self._paused += seconds

    def stepped(
        self, record: Record, metrics: Mapping[str, jax.Array], every: int, seconds: float
    ) -> bool:
        """Takes what a step gave, `seconds` from the begin; returns whether it was made a row."""
        self._unlogged = record, metrics, seconds
        due = record.crossed(every)
        if due:
            self.last()
        return due

    def last(self) -> None:
        """Takes the last step's metrics as a row, where they are none yet."""
        if self._unlogged is not None:
            record, metrics, seconds = self._unlogged
            self.later(dataclasses.replace(record, seconds=seconds), metrics)
            self._unlogged = None

    def ended(self) -> dict[str, float]:
        """The last step's metrics; what is no row is not made one."""
        self.flush()
        return self.latest if self._unlogged is None else self._fetched(*self._unlogged[:2])

    def later(self, record: Record, metrics: Mapping[str, jax.Array]) -> None:
        """Takes a row of training metrics on the device, and writes the one before it."""
        self.flush()
        if not self._measured:
            # Once: later rows cannot run far ahead of the device, because the row before is waited
            # for; of the first one only the time that it took to ask for it would be seen.
            jax.block_until_ready(dict(metrics))
            self._measured = True
        self._pending = record, {**metrics, **self._speed(record, metrics.get("loss"))}

    def _speed(self, record: Record, loss: Any) -> dict[str, float]:
        """From one row to the next, however late they are written.

        `mfu` is the model FLOPs utilisation: FLOPs a second over what the devices could do at most.
        """
        found: dict[str, float] = {}
        if self._clock is not None:
            since, examples, step = self._clock
            elapsed = time.perf_counter() - since - self._paused
            if elapsed > 0 and record.examples > examples:
                found["examples_per_second"] = (record.examples - examples) / elapsed
                flops = (record.step - step) * self.flops_per_step
                if flops and (peak := peak_flops(getattr(loss, "devices", set)())):
                    found["mfu"] = flops / elapsed / peak
        self._start_clock(record)
        return found

    def flush(self) -> None:
        """Writes the row that was kept back; this waits for the device."""
        if self._pending is None:
            return
        record, metrics = self._pending
        self._pending = None
        values = self._fetched(record, metrics)
        loss = values.get("loss", 0.0)
        if not (math.isfinite(loss) or self._losses_may_fail or self.bad_loss):
            self.bad_loss = f"the loss is {loss} at step {record.step:,}"
        self.latest, self.latest_at = values, record.step
        self.write(record, "train", values)

    def _fetched(self, record: Record, metrics: Mapping[str, Any]) -> dict[str, float]:
        values = fetch(metrics, "the step", record.step - record.before)
        return values | {"compile_seconds": self.compile_seconds}

    def write(self, record: Record, kind: str, values: Mapping[str, Any]) -> None:
        """Writes a row at once."""
        steps.row_names(values, kind, ROW)
        if self._log is None:
            return
        row = {
            "step": record.step,
            "kind": kind,
            "epoch": record.epoch,
            "examples": record.examples,
            "flops": record.flops,
            "seconds": record.seconds,
        }
        self._log.write(row | dict(values))

    @property
    def position(self) -> dict[str, Any] | None:
        """The place in the files, for a checkpoint."""
        return self._log.position if self._log is not None else None


def fetch(metrics: Any, by: str, steps: int = 1) -> dict[str, float]:
    """Metrics as Python numbers; of several steps in one call, the last step's.

    Raises:
      TypeError, ValueError: it is no mapping of names to numbers; what is not is named.

    >>> fetch({"loss": np.float32(0.5)}, "evaluate")
    {'loss': 0.5}
    """
    if not isinstance(metrics, Mapping):
        given, hint = f"{metrics!r:.60}", "."
        if isinstance(metrics, tuple) and metrics and hasattr(metrics[0], "opt_state"):
            given = "a state and metrics"
            hint = "; a step trains: give trainkit.make_eval_step(model).over(state, batches)."
        raise TypeError(f"{by} must give a dict of names and numbers, not {given}{hint}")
    found = {}
    for name, value in jax.device_get(dict(metrics)).items():
        array = np.asarray(value)
        real = any(jnp.issubdtype(array.dtype, kind) for kind in (bool, jnp.integer, jnp.floating))
        if not (isinstance(name, str) and real):
            raise TypeError(f"{by} must give names and numbers, not {name!r}: {value!r}.")
        if array.size != 1 and array.shape != (steps,):
            raise ValueError(
                f"{by} gives the metric {name!r} with shape {array.shape}; it must be one number: "
                "take its mean, or give each part a name of its own."
            )
        found[name] = float(array.reshape(-1)[-1])
    return found
