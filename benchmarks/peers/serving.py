"""Their end of the pipe: a process that answers requests, and is idle between them.

It imports nothing but NumPy, because it runs in environments that have little else. A request is a
line of JSON, `{"do": name, ...}`, an answer another.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np


class Side(Protocol):
    """One library's model, optimizer and data, as a user of it would write them."""

    def train(self, order: np.ndarray) -> float:
        """A step for each row of indices [steps, batch]; the last loss, once all are done."""

    def accuracy(self) -> float:
        """The accuracy on the test data, in batches of the size of training."""


class Task:
    """A task read from its file: data, initial parameters by path, and the order of batches."""

    def __init__(self, path: str):
        with np.load(path) as file:
            arrays = dict(file)
        self.name = str(arrays.pop("name"))
        self.heads = int(arrays.pop("heads"))
        self.learning_rate = float(arrays.pop("learning_rate"))
        self.x, self.y = arrays.pop("x"), arrays.pop("y")
        self.test_x, self.test_y = arrays.pop("test_x"), arrays.pop("test_y")
        self.order = arrays.pop("order")
        self.params = arrays

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Kernel and bias of every layer of an MLP or CNN: convolutions first, by name."""
        kernels = sorted((n for n in self.params if n.endswith("kernel")), key=self._rank)
        return [(self.params[n], self.params[n.removesuffix("kernel") + "bias"]) for n in kernels]

    def angles(self, head_size: int) -> np.ndarray:
        """The rotary angles [length, head_size / 2] of a transformer."""
        frequencies = 10_000.0 ** (-np.arange(0, head_size, 2, dtype=np.float32) / head_size)
        return np.arange(self.x.shape[1], dtype=np.float32)[:, None] * frequencies

    def _rank(self, name: str) -> tuple[int, str]:
        return -self.params[name].ndim, name


def trainer(make: Callable[[Task], Side], task: Task) -> dict[str, Callable[..., Any]]:
    """The requests of a training process. `make` is part of the time to an accuracy."""
    side: list[Side] = []
    at = [0]

    def rows(steps: int) -> np.ndarray:
        found = task.order[np.arange(at[0], at[0] + steps) % len(task.order)]
        at[0] += steps
        return found

    def reach(accuracy: float, every: int, limit: int) -> dict[str, Any]:
        begun = time.perf_counter()
        side[:] = [make(task)]
        at[0], found, first = 0, 0.0, None
        while found < accuracy and at[0] < limit:
            side[0].train(rows(every))
            first = first or time.perf_counter() - begun
            found = side[0].accuracy()
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "first": first, "steps": at[0], "accuracy": found}

    def block(steps: int) -> float:
        order = rows(steps)
        begun = time.perf_counter()
        side[0].train(order)
        return time.perf_counter() - begun

    def losses(steps: int) -> list[float]:
        """The losses of the first steps, to see that all sides compute the same."""
        fresh = make(task)
        return [float(fresh.train(task.order[i : i + 1])) for i in range(steps)]

    return {"reach": reach, "block": block, "losses": losses}


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answers requests until the pipe is closed. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("{}", file=answers, flush=True)  # ready
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": handlers[request.pop("do")](**request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
