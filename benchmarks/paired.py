"""Sides of a comparison that take turns, so that all of them meet the same noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

Block = Callable[[], float]


def blocks(sides: Mapping[str, Block], rounds: int, warm_up: int = 1) -> dict[str, np.ndarray]:
    """What each side returns (as a rule its seconds), round after round.

    Every side runs a block in every round, in an order that is drawn anew; so the ratio of two
    sides in a round is free of what changes more slowly than a round. The first blocks compile and
    fill caches, and are thrown away.
    """
    for _ in range(warm_up):
        for side in sides.values():
            side()
    order = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name in order.permutation(list(sides)):
            found[name].append(sides[name]())
    return {name: np.asarray(values) for name, values in found.items()}


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Block:
    """A block that returns the seconds of `work`, which must wait for the device itself."""

    def block() -> float:
        begun = clock()
        work()
        return clock() - begun

    return block
