"""How long saves hold up training: the time between two steps with a save in it, and without.

`fit` trains a small model beside a state of 50 MB, with steps of 20 ms, and saves every 100 steps.
A step either waits, as a device would keep it waiting, so that the cores are free; or it computes.
Less is better.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from benchmarks.effort import Effort
from benchmarks.rows import Row
from trainkit.data import Sampler

DEVICES, PEERS = 1, False
LEAVES, SECONDS = 60, 0.02


class Clock:
    """A step that takes its time, and knows when each call of it began."""

    def __init__(self, step: Any, busy: bool):
        self.step, self.busy = step, busy
        self.place, self.place_batch, self.compile = step.place, step.place_batch, step.compile
        self.steps_per_call = 1
        self.began: list[float] = []

    def __call__(self, state: Any, batch: Any) -> Any:
        self.began.append(time.perf_counter())
        state, metrics = self.step(state, batch)
        jax.block_until_ready(state.step)
        left = SECONDS - (time.perf_counter() - self.began[-1])
        if self.busy:
            while time.perf_counter() - self.began[-1] < SECONDS:
                np.linalg.norm(np.ones((64, 64)))
        elif left > 0:
            time.sleep(left)
        return state, metrics


def state_of(megabytes: float, tx: optax.GradientTransformation) -> trainkit.TrainState:
    """A state whose parameters are few and whose model state is large: a step costs little."""
    size = int(megabytes * 1e6 / 4 / LEAVES)
    draw = np.random.default_rng(0).normal
    held = {f"leaf{i}": jnp.asarray(draw(size=size), jnp.float32) for i in range(LEAVES)}
    return trainkit.TrainState.create({"w": jnp.ones(8)}, tx, model_state=held)


def saving(busy: bool, effort: Effort) -> Iterator[Row]:
    """A run of `fit` with saves in it."""
    every, saves = effort.size(100, 20), effort.of(8) + 1  # the first imports and is not counted

    def loss_fn(params: Any, model_state: Any, batch: Any, rng: Any) -> trainkit.Loss:
        return trainkit.Loss((params["w"] * batch).sum(), len(batch), model_state)

    tx = optax.adam(1e-3)
    step = trainkit.make_train_step(loss_fn, tx, donate=True, norms=False)
    clock = Clock(step, busy)
    with tempfile.TemporaryDirectory() as folder:
        trainkit.fit(
            clock, state_of(effort.size(50, 5), tx),
            Sampler(np.ones((64, 8), np.float32), 8),
            steps=every * (saves + 1), checkpoint_every=every,
            out=folder, progress=False, report=False,
        )  # fmt: skip
    gaps = np.diff(clock.began)
    at, half = [every * i - 1 for i in range(2, saves + 1)], every // 2
    quiet = statistics.median(np.concatenate([gaps[i - half : i] for i in at]))
    stalls = np.array([gaps[i] - quiet for i in at])
    slower = np.array([gaps[i + 1 : i + half].sum() - quiet * (half - 1) for i in at])
    period, words = every * quiet, "computing" if busy else "waiting"
    note = f"steps of {1e3 * quiet:.0f} ms"
    yield Row.of(f"stall / time between two saves, {words}", stalls / period, note=note)
    yield Row.of(f"slower steps / time between two saves, {words}", slower / period, note=note)


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "waiting": functools.partial(saving, False),
    "computing": functools.partial(saving, True),
}
