"""Planning, growing beside a copy, the stall, peak memory, progressive training beside `fit`.

Ratios say in their name what is over what; less is better in all of them but "copy / growing".
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

import trainkit
from benchmarks.effort import Effort
from benchmarks.growing import build, data, model, prepared
from benchmarks.paired import blocks, timed
from benchmarks.parts.update import copied
from benchmarks.planning import BIG, SMALL, TOKENS, block, looped, post_norm, shapes, unrolled
from benchmarks.rows import Row
from trainkit import growth
from trainkit.progressive import Stage, progressive, triggers

DEVICES, PEERS = 1, False


def planning(effort: Effort) -> Iterator[Row]:
    """CPU time of planning, over that of tracing the two models that it compares."""
    layers = effort.size(12, 2)
    half = layers // 2
    widths = shapes(SMALL, layers), shapes(BIG, layers)
    cases: dict[str, tuple[Any, Any, Any]] = {
        "width": (lambda: unrolled(block), *widths),
        "width, in a loop": (
            lambda: lambda p, x: looped(p, x),
            shapes(SMALL, layers, loop=True),
            shapes(BIG, layers, loop=True),
        ),
        "width and depth": (lambda: unrolled(block), shapes(SMALL, half), shapes(BIG, layers)),
        "post-norm depth, which is refused": (
            lambda: unrolled(post_norm), shapes(SMALL, half), shapes(SMALL, layers),
        ),
    }  # fmt: skip
    for name, (make, small, big) in cases.items():

        def trace(make: Any = make, small: Any = small, big: Any = big) -> None:
            jax.clear_caches()
            for params in (small, big):
                jax.make_jaxpr(make())(params, TOKENS)

        def plan(make: Any = make, small: Any = small, big: Any = big) -> None:
            jax.clear_caches()
            planned(make(), small, big)

        sides = {k: timed(v, time.process_time) for k, v in (("plan", plan), ("trace", trace))}
        took = blocks(sides, effort.of(5))
        name = f"{layers} layers, {name}"
        yield Row.of(f"planning / tracing both, {name}", took["plan"] / took["trace"])
        yield Row.of(f"planning, {name}", took["plan"], unit="s CPU")


def planning_at_scale(effort: Effort) -> Iterator[Row]:
    """Ten billion parameters: once, and the memory that it took."""
    layers = effort.size(48, 2)
    for name, fn, loop in (("unrolled", unrolled(block), False), ("in a loop", looped, True)):
        small, big = (shapes(sizes, layers, loop=loop) for sizes in (SMALL, BIG))
        begun = time.process_time()
        planned(fn, small, big)
        seconds = time.process_time() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        note = f"largest memory of the process so far: {peak:,.0f} MB"
        yield Row.of(
            f"planning, {layers} layers, width, {name}", [seconds], unit="s CPU", note=note
        )


def planned(model: Any, small: Any, big: Any) -> None:
    """Plans, or is refused."""
    with contextlib.suppress(growth.GrowthError):
        growth.plan(model, model, small, big, TOKENS)


def bytes_of(tree: Any) -> int:
    """Bytes of the arrays or shapes of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trainkit_arrays(tree)))


def trainkit_arrays(tree: Any) -> Any:
    """The tree without random keys, which have no bytes of their own kind."""
    return [
        x for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)
    ]


def growing(effort: Effort) -> Iterator[Row]:
    """The program that grows a training state, beside a copy of the bytes it must move."""
    width = effort.size(256, 64)
    for name, after in (("width × 2", (2 * width, 4)), ("depth × 2", (width, 8))):
        small, big, transition = prepared(data(), (width, 4), after)
        state = small.initial_state()
        grow = jax.jit(transition.apply)
        moved = bytes_of(state) + bytes_of(big.like)
        sides = {
            "grow": timed(lambda grow=grow, state=state: jax.block_until_ready(grow(state))),
            "copy": copied(moved, 1, fresh=True),
            "in place": copied(moved, 1),
        }
        took = blocks(sides, effort.of(15), warm_up=2)
        note = f"{moved / 1e6:.0f} MB read and written"
        yield Row.of(f"copy / growing, {name}", took["copy"] / took["grow"], note=note)
        yield Row.of(f"copy in place / growing, {name}", took["in place"] / took["grow"])


def memory(effort: Effort) -> Iterator[Row]:
    """Peak memory of the growing program as XLA counts it; the same in every run."""
    width = effort.size(256, 64)
    small, big, transition = prepared(data(), (width, 4), (2 * width, 8))
    used = jax.jit(transition.apply).lower(small.like).compile().memory_analysis()
    peak = (
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        + used.temp_size_in_bytes
        - used.alias_size_in_bytes
    )
    least = bytes_of(small.like) + bytes_of(big.like)
    name = "peak memory / both states, width × 2 and depth × 2"
    yield Row.of(name, [peak / least], most=1.05)


def stall(effort: Effort) -> Iterator[Row]:
    """Growing and the first step of the grown model, beyond an ordinary step."""
    for name, before, after, batch in (
        ("32 → 64 wide", (32, 2), (64, 2), 16),
        ("64 → 128 wide", (64, 2), (128, 2), 32),
    ):
        stream = data(batch)
        small, big, transition = prepared(stream, before, after)
        transition.compile().rehearse()
        state = small.initial_state()
        first, ordinary = [], []
        for _ in range(effort.of(20)):
            state, _ = jax.block_until_ready(small.step(state, next(stream)))
            begun = time.perf_counter()
            grew, _ = transition(state)
            grew, _ = jax.block_until_ready(big.step(grew, next(stream)))
            first.append(time.perf_counter() - begun)
            for _ in range(3):
                begun = time.perf_counter()
                grew, _ = jax.block_until_ready(big.step(grew, next(stream)))
                ordinary.append(time.perf_counter() - begun)
        usual = float(np.median(ordinary))
        yield Row.of(
            f"stall, {name}, in ordinary steps",
            [(seconds - usual) / usual for seconds in first],
            note=f"a step of {1e3 * usual:.0f} ms",
        )


def staged(effort: Effort) -> Iterator[Row]:
    """A progressive run beside two runs of `fit` with the same stages and `grow` between them."""
    steps = effort.size(300, 20)
    before, after, tx = model(32, 2), model(64, 2), optax.adamw(1e-3)
    quiet = {"progress": False, "eval_every": 10**6, "log_every": 10**6}

    def ours() -> None:
        stream = data()
        progressive(
            [Stage(before, triggers.steps(steps)), Stage(after)], build, tx, stream,
            [stream.draw((0, 0))[0]], steps=2 * steps, decay=0.0, certify=False, **quiet,
        )  # fmt: skip

    def by_hand() -> None:
        stream = data()
        batch = stream.draw((0, 0))[0]
        step = trainkit.make_train_step(build(before), tx)
        state = trainkit.fit(
            step, build(before).state(tx, batch, rng=0), stream, steps=steps, **quiet
        ).state
        state = growth.grow(state, before, after, batch["inputs"], tx=tx)
        step = trainkit.make_train_step(build(after), tx)
        trainkit.fit(step, state, stream, steps=2 * steps, **quiet)

    def fresh(run: Callable[[], None]) -> Callable[[], None]:
        return lambda: (jax.clear_caches(), run())[1]

    sides = {k: timed(fresh(v)) for k, v in (("progressive", ours), ("fit", by_hand))}
    took = blocks(sides, effort.of(5))
    name = f"`fit`, `grow`, `fit` / progressive, {steps} steps each, with compilation"
    yield Row.of(name, took["fit"] / took["progressive"])


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "planning": planning,
    "planning-at-scale": planning_at_scale,
    "growing": growing,
    "memory": memory,
    "stall": stall,
    "progressive": staged,
}
