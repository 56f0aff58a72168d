"""Throughput and time to a stated accuracy beside Flax + Optax, PyTorch and Keras on JAX.

Every side is a process of its own with the same data, initial parameters, batches, optimizer, dtype
and number of threads; they take turns. "time to" has compilation in it, but no import. More than 1:
trainkit is faster.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tasks
from benchmarks.effort import Effort
from benchmarks.paired import blocks
from benchmarks.peers.environment import Missing, python_of
from benchmarks.peers.worker import Worker
from benchmarks.rows import Row

DEVICES, PEERS = 1, True
# Side -> (peer whose environment it runs in, module, argument, {task: least ratio}).
OURS = "trainkit"
SIDES: dict[str, tuple[str | None, str, str, dict[str, float]]] = {
    OURS: (None, "jax_side", "trainkit", {}),
    "Flax + Optax by hand": (None, "jax_side", "by_hand", dict.fromkeys(tasks.TASKS, 0.98)),
    "PyTorch": ("torch", "torch_side", "eager", {"mlp": 1.2, "cnn": 0.7, "transformer": 1.2}),
    "PyTorch compiled": (
        "torch", "torch_side", "compiled", {"mlp": 1.2, "cnn": 1.5, "transformer": 1.2},
    ),
    "Keras on JAX": ("keras", "keras_side", "fit", dict.fromkeys(tasks.TASKS, 1.05)),
}  # fmt: skip
ROUNDS = 24  # of blocks, over all seeds
CHECKED = 3  # losses that must agree before anything is timed
# Float32 sums in another order; after three steps of Adam, whose first updates have the size of the
# learning rate whatever the gradient's, single losses of these models agree to four digits.
AGREE = 2e-3


def training(name: str, effort: Effort) -> Iterator[Row]:
    """All sides on one task, in fresh processes for every seed."""
    pythons, missing = found_pythons()
    seeds = effort.size(tasks.TASKS[name].seeds, 1)
    times: dict[str, list[np.ndarray]] = {side: [] for side in pythons}
    reached: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
    for seed in range(seeds):
        with contextlib.ExitStack() as stack:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "task.npz"
            settings = tasks.write(path, name, seed)
            workers = {}
            for side, python in list(pythons.items()):
                try:
                    workers[side] = started(stack, side, python, path)
                    check(side, workers)
                except Missing as error:
                    missing[side] = str(error)
                    del pythons[side]
                    workers.pop(side, None)
            sides = np.random.default_rng(seed).permutation(list(workers))
            for side in sides:
                reached[side].append(workers[side].ask("reach", **goal(settings, effort)))
            steps = steps_of(settings, effort)
            turns = {
                side: functools.partial(worker.ask, "block", steps=steps)
                for side, worker in workers.items()
            }
            for side, values in blocks(turns, effort.of(ROUNDS // seeds)).items():
                times[side].append(values)
    yield from rows(name, effort, times, reached, missing)


def goal(settings: tasks.Settings, effort: Effort) -> dict[str, Any]:
    """The request for the time to an accuracy."""
    accuracy = settings.accuracy / 2 if effort.quick else settings.accuracy
    every = effort.size(settings.every, settings.block // 2)
    return {"accuracy": accuracy, "every": every, "limit": settings.limit}


def found_pythons() -> tuple[dict[str, str], dict[str, str]]:
    """Side -> its Python; and side -> why there is none."""
    pythons, missing = {}, {}
    for side, (peer, *_) in SIDES.items():
        try:
            pythons[side] = str(python_of(peer)) if peer else sys.executable
        except Missing as error:
            missing[side] = str(error)
    return pythons, missing


def started(stack: contextlib.ExitStack, side: str, python: str, path: Path) -> Worker:
    """The process of a side."""
    _, module, argument, _ = SIDES[side]
    return stack.enter_context(Worker(python, module, argument, str(path)))


def check(side: str, workers: dict[str, Worker]) -> None:
    """Whether a side computes what ours does.

    Raises:
      Missing: it does not, so that a comparison would say nothing.
    """
    ours, theirs = (workers[name].ask("losses", steps=CHECKED) for name in (OURS, side))
    if not np.allclose(ours, theirs, rtol=AGREE, atol=0):
        raise Missing(f"computes something else: losses {theirs}, trainkit {ours}")


def rows(
    name: str, effort: Effort, times: dict, reached: dict, missing: dict[str, str]
) -> Iterator[Row]:
    """Throughput, then the time to the accuracy, beside every other side."""
    settings = tasks.TASKS[name]
    ours = np.concatenate(times[OURS])
    accuracy = goal(settings, effort)["accuracy"]
    yield Row.of(f"{name}, trainkit's step", 1e3 * ours / steps_of(settings, effort), unit="ms")
    for side, (*_, least) in SIDES.items():
        if side != OURS:
            label = f"{name}, steps per second over {side}"
            if side in missing:
                yield Row.missing(label, missing[side])
            else:
                yield Row.of(label, np.concatenate(times[side]) / ours, least=least.get(name))
    seconds = {side: np.array([x["seconds"] for x in found]) for side, found in reached.items()}
    what = f"{name}, time to {accuracy:.0%}"
    steps = ", ".join(str(x["steps"]) for x in reached[OURS])
    yield Row.of(f"{what}, trainkit", seconds[OURS], unit="s", note=f"in {steps} steps")
    for side in SIDES:
        if side == OURS or side in missing:
            continue
        short = [x for x in reached[side] if x["accuracy"] < accuracy]
        steps = ", ".join(str(x["steps"]) for x in reached[side])
        note = f"in {steps} steps" + (", not always reached" if short else "")
        yield Row.of(f"{what} over {side}", seconds[side] / seconds[OURS], note=note)


def steps_of(settings: tasks.Settings, effort: Effort) -> int:
    """Steps of a block."""
    return effort.size(settings.block, max(settings.block // 4, 2))


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    name: functools.partial(training, name) for name in tasks.TASKS
}
