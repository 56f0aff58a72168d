"""Update rules beside Optax's, in one run: ratios, never absolute times.

    python -m benchmarks.transforms            # about two minutes on two cores
    python -m benchmarks.transforms --rounds 60

Rows:
  adamw       compile time and step time over `optax.adamw`, 300 small leaves and 10 large ones
  packed      the step over the packed leaves, over `optax.adamw`'s over the tree
  accumulate  a micro-step of `accumulate(adamw, 8)` over a plain step; `optax.MultiSteps` beside

A step is update and apply, jitted, with parameters and state donated. Sides alternate in short
rounds, and the median of the rounds' ratios is printed, so that both meet the same noise.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit.transforms as tt
from trainkit.packed import Packed


def small() -> dict[str, jax.Array]:
    """About 300 leaves of a few hundred entries, as in a model of many small layers."""
    rng = np.random.default_rng(0)
    shapes = [(16, 16), (16,), (16, 8)] * 100
    return {f"p{i:03}": jnp.asarray(rng.normal(size=s), jnp.float32) for i, s in enumerate(shapes)}


def large() -> dict[str, jax.Array]:
    """Ten leaves of a million entries."""
    rng = np.random.default_rng(0)
    return {f"p{i}": jnp.asarray(rng.normal(size=(1024, 1024)), jnp.float32) for i in range(10)}


class Side:
    """One jitted step with the parameters and state it has come to."""

    def __init__(self, tx: optax.GradientTransformation, params: Any):
        self.params = jax.tree.map(jnp.copy, params)
        self.grads = jax.tree.map(lambda p: 0.01 * p, params)
        self.state = tx.init(self.params)

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        jitted = jax.jit(step, donate_argnums=(0, 1))
        begun = time.perf_counter()
        lowered = jitted.lower(self.params, self.state, self.grads)
        lowered.compile()
        self.compile_time = time.perf_counter() - begun
        self.step = jitted
        self.run(1)

    def run(self, steps: int) -> float:
        """Seconds a step."""
        begun = time.perf_counter()
        for _ in range(steps):
            self.params, self.state = self.step(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)
        return (time.perf_counter() - begun) / steps


def ratio(ours: Side, theirs: Side, rounds: int, steps: int) -> float:
    """The median over rounds of our time over theirs; who goes first alternates."""
    found = []
    for i in range(rounds):
        if i % 2:
            a, b = ours.run(steps), theirs.run(steps)
        else:
            b, a = theirs.run(steps), ours.run(steps)
        found.append(a / b)
    return statistics.median(found)


def compile_ratio(ours: Callable[[], Side], theirs: Callable[[], Side], repeats: int = 5) -> float:
    """The median ratio of the time to trace and compile, each time afresh."""
    found = []
    for _ in range(repeats):
        jax.clear_caches()
        a = ours().compile_time
        jax.clear_caches()
        found.append(a / theirs().compile_time)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each comparison")
    rounds = parser.parse_args().rounds
    # Compile times of programs that are cached say nothing.
    jax.config.update("jax_enable_compilation_cache", False)

    print(f"{'':<34}{'ratio':>8}{'at most':>10}")
    for name, make, steps in (("300 small leaves", small, 20), ("10 large leaves", large, 2)):
        params = make()
        ours = functools.partial(Side, tt.adamw(1e-3), params)
        theirs = functools.partial(Side, optax.adamw(1e-3), params)
        print(
            f"{'adamw, ' + name + ', compile':<34}{compile_ratio(ours, theirs):>8.2f}{'1.02':>10}"
        )
        found = ratio(ours(), theirs(), rounds, steps)
        print(f"{'adamw, ' + name + ', step':<34}{found:>8.2f}{'1.02':>10}")

    params = small()
    packed = Side(tt.adamw(1e-3), Packed.pack(params))
    found = ratio(packed, Side(optax.adamw(1e-3), params), rounds, 20)
    print(f"{'packed, 300 small leaves, step':<34}{found:>8.2f}{'0.35':>10}")

    for name, make, steps in (("300 small leaves", small, 16), ("10 large leaves", large, 8)):
        params = make()
        plain = Side(optax.adamw(1e-3), params)
        found = ratio(Side(tt.accumulate(tt.adamw(1e-3), 8), params), plain, rounds, steps)
        print(f"{'accumulate 8, ' + name:<34}{found:>8.2f}{'1.60':>10}")
        multi = optax.MultiSteps(optax.adamw(1e-3), 8).gradient_transformation()
        found = ratio(Side(multi, params), plain, max(rounds // 4, 4), steps)
        print(f"{'  MultiSteps 8, ' + name:<34}{found:>8.2f}{'':>10}")


if __name__ == "__main__":
    main()
