"""The CPU time of the default check of an update rule.

An absolute time: nothing else makes the same checks. CPU time, because it hardly depends on what
else the processor does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import jax
import optax

from benchmarks.effort import Effort
from benchmarks.paired import timed
from benchmarks.rows import Row
from trainkit import laws

DEVICES, PEERS = 1, False


def default(effort: Effort) -> Iterator[Row]:
    """`laws.check` of two correct rules, each from a cold start."""
    rules = {
        "sgd": lambda: optax.sgd(0.1),
        "adamw": lambda: optax.adamw(1e-3),
    }
    for name, make in rules.items():
        rate = 0.1 if name == "sgd" else 1e-3

        def check(make: Callable = make, name: str = name, rate: float = rate) -> None:
            jax.clear_caches()
            examples = {"examples": 2} if effort.quick else {}
            report = laws.check(make, like=name, hyperparams={"learning_rate": rate}, **examples)
            assert report.ok, report

        run = timed(check, time.process_time)
        run()
        name = f"laws.check, {name}, default level"
        yield Row.of(name, [run() for _ in range(effort.of(3))], unit="s CPU")


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {"default": default}
