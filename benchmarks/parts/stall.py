"""What a growth puts between two steps of a whole progressive run, compiled ahead and not.

In units of an ordinary step of the grown model: choosing the stage, growing the state, the loop's
own work and whatever the first step takes longer; without working ahead, compiling. Less is better.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache

import trainkit.progressive.run as run_module
from benchmarks.effort import Effort
from benchmarks.growing import build, data, model
from benchmarks.rows import Row
from trainkit.progressive import Stage, progressive, triggers
from trainkit.progressive.background import Background

DEVICES, PEERS = 1, False
QUIET = 20  # steps with nothing in the background, before a stage ends


class Watched(Background):
    """Work ahead of which it is known whether any is left."""

    latest: ClassVar[Watched]

    def __init__(self, enabled: bool = True):
        super().__init__(enabled)
        Watched.latest = self

    @property
    def idle(self) -> bool:
        """Whether everything that was begun is done."""
        return all(work.done() for work in list(self._futures.values()))


def quiet() -> triggers.Trigger:
    """When nothing has gone on in the background for some steps."""

    def update(steps: Any, seen: triggers.Observation) -> tuple[Any, bool]:
        steps = steps + 1 if Watched.latest.idle else np.int32(0)
        return steps, steps > QUIET

    return triggers.Trigger(lambda: np.int32(0), update, frozenset(), "quiet")


def gap(ahead: bool, seed: int) -> tuple[float, float]:
    """What a growth puts between two steps of a whole run.

    From the end of the last step before the growth to the end of the first after it, less an
    ordinary step of the grown model: choosing the stage, growing the state, the loop's own work and
    whatever the first step takes longer; without working ahead, compiling.

    Returns:
      The gap in ordinary steps of the grown model, and the seconds of one.
    """
    ends: list[float] = []

    def clock(now: Any) -> None:
        # It reads the clock after the hook that grows: the state is grown by then.
        jax.block_until_ready(now.state.params)
        ends.append(time.perf_counter())

    stream = data(seed=seed)
    run_module.Background = Watched
    result = progressive(
        [Stage(model(32, 1), quiet()), Stage(model(64, 1), quiet())],
        build,
        optax.adamw(1e-3),
        stream,
        [stream.draw((0, 0))[0]],
        decay=0.0,
        ahead=ahead,
        # Without work ahead a certificate would be made in the middle of the gap.
        certify=ahead,
        seed=seed,
        hooks=[clock],
        progress=False,
        eval_every=10**6,
        log_every=10**6,
    )
    (at,) = (event["step"] for event in result.history if event["event"] == "growth")
    took = np.diff(ends)  # took[n]: step n + 1, and what hooks did after it
    ordinary = float(np.median(took[-QUIET:]))
    small = float(np.median(took[at - QUIET : at - 1]))
    return float((took[at - 1] - small + took[at] - ordinary) / ordinary), ordinary


def cached(folder: str | None) -> None:
    """Keeps compiled programs in a folder, or nowhere."""
    jax.config.update("jax_enable_compilation_cache", folder is not None)
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # it looks at these options once


def growths(ahead: bool, effort: Effort) -> Iterator[Row]:
    """A growth in each of some runs."""
    with tempfile.TemporaryDirectory() as folder:
        # Ahead, programs are kept from run to run: what is measured begins when all are there.
        cached(folder if ahead else None)
        found = [gap(ahead, seed) for seed in range(effort.of(10))]
        cached(None)
    step = 1e3 * np.median([ordinary for _, ordinary in found])
    most = max(one for one, _ in found)
    words = "compiled ahead" if ahead else "compiled when needed"
    note = f"a step of {step:.0f} ms; largest {most:.2f}"
    yield Row.of(f"gap in ordinary steps, {words}", [one for one, _ in found], note=note)


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "ahead": functools.partial(growths, True),
    "on-demand": functools.partial(growths, False),
}
