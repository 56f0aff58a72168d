"""The schedule under test, and its values at the counts that matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.clock import Clock
from trainkit.laws.law import Level
from trainkit.laws.oracles.schedules import boundaries
from trainkit.laws.protocol import ordinary

TOP = int(np.iinfo(np.int32).max)


@dataclass
class ScheduleSubject:
    """A schedule under test, and its values at the counts that matter."""

    fn: Callable[[Any], Any]
    like: str | None
    hyperparams: dict[str, Any]
    claims: dict[str, Any]
    level: Level
    examples: int
    seed: int
    value: Callable[[int], float] | None
    clock: Clock = field(default_factory=Clock)
    notes: list[str] = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> np.ndarray:
        """Small counts, counts around boundaries, powers of two, random ones, the largest."""
        edges = boundaries(self.like, self.hyperparams)
        around = [b + d for b in edges for d in (-2, -1, 0, 1, 2)]
        inside = []
        for a, b in zip([0, *edges], edges, strict=False):
            inside += [a + (b - a) * k // 8 for k in range(1, 8)]
        powers = [2**k + d for k in range(31) for d in (-1, 0, 1)]
        rng = np.random.default_rng(self.seed)
        random = (10 ** rng.uniform(0, 9.3, self.examples)).astype(np.int64).tolist()
        last = edges[-1] if edges else 1000
        random += rng.integers(0, max(2 * last, 2), self.examples).tolist()
        every = range(0, min(2 * last, 400))
        picked = {*every, *around, *inside, *powers, *random, TOP - 1, TOP}
        return np.array(sorted(c for c in picked if 0 <= c <= TOP), np.int64)

    def mapped(self) -> np.ndarray:
        """The values at `counts`, traced: vmapped under jit."""
        if "mapped" not in self.memo:
            with ordinary():
                out = jax.jit(jax.vmap(lambda c: jnp.asarray(self.fn(c))))(
                    jnp.asarray(self.counts, jnp.int32)
                )
            self.memo["mapped"] = np.asarray(out)
        return self.memo["mapped"]

    def eager(self, kind: Callable[[int], Any] = int, counts: Any = None) -> np.ndarray:
        with ordinary():
            chosen = self.sample if counts is None else counts
            return np.array([np.asarray(self.fn(kind(int(c))), np.float64) for c in chosen])

    @property
    def sample(self) -> np.ndarray:
        """Fewer counts, for calls one by one: the boundaries and some others."""
        edges = boundaries(self.like, self.hyperparams)
        near = {b + d for b in edges for d in (-1, 0, 1)} | {0, 1, 2, 3, 10, 100, 1000, TOP}
        return np.array(sorted(c for c in near if 0 <= c <= TOP))


def refuses(s: ScheduleSubject) -> bool:
    """Whether the schedule refuses a horizon beyond int32 instead of wrapping around."""
    if max(boundaries(s.like, s.hyperparams), default=0) <= TOP:
        return False
    try:
        with ordinary():
            jax.eval_shape(s.fn, jax.ShapeDtypeStruct((), jnp.int32))
    except (OverflowError, ValueError):
        return True
    return False


def at_count(count: Any, test: str) -> str:
    """Lines of a reproducer that test the value at one count."""
    return (
        f"count = {int(count)}\nvalue = schedule(count)\nprint(count, value)\nassert {test}, value"
    )
