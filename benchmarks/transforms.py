"""Update rules beside Optax's, in one run: ratios, never absolute times.

    python -m benchmarks.transforms                # some three minutes on two quiet cores
    python -m benchmarks.transforms --rounds 200   # for a last digit that holds

Rows:
  program     instructions of the compiled step, ours over `optax.adamw`'s, and whether the two
              lowered programs are one and the same text
  compile     CPU time to trace, lower and compile, over `optax.adamw`'s
  step        time of a step over `optax.adamw`'s, 300 small leaves and 10 large ones
  packed      the step over the packed leaves, over `optax.adamw`'s over the tree
  accumulate  a micro-step of `accumulate(adamw, 8)` over a plain step; `optax.MultiSteps` beside
  bandwidth   bytes that a step must move over its time, as a fraction of what a copy moves; the
              measure on a GPU, which is used if JAX finds one

A step is update and apply, jitted, with parameters and state donated. Sides alternate, each round
begins with the other one, and what is printed is the median of the rounds' ratios with their
quartiles: what lies within these of 1 is not told from 1.
"""

from __future__ import annotations

import argparse
import functools
import gc
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

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
        self.tx = tx
        self.step = self.fresh()

    def fresh(self) -> Any:
        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = self.tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.jit(step, donate_argnums=(0, 1))

    def lowered(self) -> jax.stages.Lowered:
        return self.fresh().lower(self.params, self.state, self.grads)

    def compile_time(self) -> float:
        """CPU seconds to trace, lower and compile, afresh: other processes count little."""
        jax.clear_caches()
        gc.collect()
        begun = time.process_time()
        self.lowered().compile()
        return time.process_time() - begun

    def step_time(self, steps: int) -> float:
        """Seconds a step."""
        begun = time.perf_counter()
        for _ in range(steps):
            self.params, self.state = self.step(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)
        return (time.perf_counter() - begun) / steps


def ratios(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> list[float]:
    """Our time over theirs, round after round; who goes first alternates."""
    found = []
    ours(), theirs()  # the first call compiles, or fills caches of its own
    for i in range(rounds):
        if i % 2:
            a, b = ours(), theirs()
        else:
            b, a = theirs(), ours()
        found.append(a / b)
    return found


def turn(side: Side, steps: int) -> Callable[[], float]:
    return functools.partial(side.step_time, steps)


def show(name: str, found: Sequence[float], bound: str = "") -> None:
    low, middle, high = statistics.quantiles(found, n=4)
    print(f"{name:<38}{middle:>7.3f}   {low:.3f} … {high:.3f}   {bound:<10}", flush=True)


def compare_programs(name: str, ours: Side, theirs: Side) -> None:
    a, b = ours.lowered(), theirs.lowered()
    sizes = [len(re.findall(r"(?m)^\s+\S.* = ", x.compile().as_text())) for x in (a, b)]
    same = "the same program" if a.as_text() == b.as_text() else "two programs"
    print(f"{name:<38}{sizes[0] / sizes[1]:>7.3f}   {sizes[0]} and {sizes[1]}: {same}", flush=True)


def copy_bandwidth(entries: int, rounds: int) -> float:
    """Bytes a second, read and written, by the fastest copy of so many float32."""
    x = jnp.zeros(entries, jnp.float32)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = copy(x)
    best = 0.0
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(4):
            x = copy(x)
        x.block_until_ready()
        best = max(best, 4 * 2 * x.nbytes / (time.perf_counter() - begun))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="rounds of each comparison of steps")
    parser.add_argument("--compiles", type=int, default=16, help="rounds of those of compile times")
    args = parser.parse_args()
    # Compile times of programs that are cached say nothing.
    jax.config.update("jax_enable_compilation_cache", False)

    print(f"on {jax.devices()[0].device_kind}; Optax {optax.__version__}, JAX {jax.__version__}")
    print(f"{'':<38}{'ratio':>7}   quartiles          at most")
    for name, make, steps in (("300 small leaves", small, 20), ("10 large leaves", large, 2)):
        params = make()
        ours, theirs = Side(tt.adamw(1e-3), params), Side(optax.adamw(1e-3), params)
        compare_programs(f"adamw, {name}, program", ours, theirs)
        found = ratios(ours.compile_time, theirs.compile_time, args.compiles)
        show(f"adamw, {name}, compile", found, "1.02")
        found = ratios(turn(ours, steps), turn(theirs, steps), args.rounds)
        show(f"adamw, {name}, step", found, "1.02")

    params = small()
    packed, plain = Side(tt.adamw(1e-3), Packed.pack(params)), Side(optax.adamw(1e-3), params)
    found = ratios(turn(packed, 20), turn(plain, 20), args.rounds)
    show("packed, 300 small leaves, step", found, "0.35")

    for name, make, steps in (("300 small leaves", small, 16), ("10 large leaves", large, 8)):
        params = make()
        plain = Side(optax.adamw(1e-3), params)
        multi = optax.MultiSteps(optax.adamw(1e-3), 8).gradient_transformation()
        for what, tx, bound in (
            ("accumulate 8", tt.accumulate(tt.adamw(1e-3), 8), "1.60"),
            ("  MultiSteps 8", multi, ""),
        ):
            found = ratios(turn(Side(tx, params), steps), turn(plain, steps), args.rounds)
            show(f"{what}, {name}", found, bound)

    # Parameters, gradient and two moments are read; parameters and moments written.
    side = Side(tt.adamw(1e-3), large())
    side.step_time(1)
    moved = 7 * sum(x.nbytes for x in jax.tree.leaves(side.params))
    fastest = copy_bandwidth(2 * moved // 4, args.rounds)
    found = [moved / side.step_time(4) / fastest for _ in range(args.rounds)]
    show("adamw, 10 large leaves, of a copy's bytes", found)


if __name__ == "__main__":
    main()
