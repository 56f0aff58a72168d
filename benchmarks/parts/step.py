"""The train step beside a hand-written Flax and Optax step, in every placement.

The hand-written step (`by_hand`) reports the loss and the accuracy. "as by default" has on each
side what is on by default; the rows below it say where a difference comes from. More than 1: ours
is faster. On a CPU, eight devices are simulated.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

import trainkit
from benchmarks.by_hand import MLP, hand_written
from benchmarks.effort import Effort
from benchmarks.paired import Block, blocks, steady, timed
from benchmarks.rows import Row

DEVICES, PEERS = 8, False
LOSS = optax.softmax_cross_entropy_with_integer_labels


def data(batch_size: int, features: int) -> dict[str, np.ndarray]:
    """Random inputs and labels."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(batch_size, features)).astype(np.float32),
        "label": rng.integers(0, 10, batch_size).astype(np.int32),
    }


def stepped(step: Callable[..., Any], state: Any, batch: Any) -> Block:
    """A block of steps that goes on from where the last one ended.

    Every result is waited for: the queue of eight simulated devices must stay short
    (trainkit/step/in_flight.py).
    """
    at = [state]

    def run(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            at[0], metrics = step(at[0], batch)
            jax.block_until_ready(metrics)
        return time.perf_counter() - begun

    return steady(run)


def placement(name: str, effort: Effort) -> Iterator[Row]:
    """Steps side by side: ours as by default, without norms and with them, two by hand."""
    tx, module, batch = optax.adam(1e-3), MLP(512), data(256, 784)
    model = trainkit.from_linen(module, LOSS)
    start = model.state(tx, batch)
    sides = {}
    for side, options in (("default", {}), ("plain", {"norms": False}), ("norms", {"norms": True})):
        step = trainkit.make_train_step(model, tx, placement=name, **options)
        sides[side] = stepped(step, step.place(start), batch)
    for side, norms in (("by hand", False), ("by hand, norms", True)):
        theirs = start.params, start.opt_state
        place, step = hand_written(module, tx, name, theirs, norms)
        sides[side] = stepped(step, place(theirs), batch)
    took = blocks(sides, effort.of(41), warm_up=2)
    yield Row.of(f"{name}, as by default", took["by hand"] / took["default"], least=0.98)
    yield Row.of(f"{name}, without norms on both sides", took["by hand"] / took["plain"])
    values = took["by hand, norms"] / took["norms"]
    yield Row.of(f"{name}, with three norms on both sides", values)


def calls(effort: Effort) -> Iterator[Row]:
    """Fifty steps in one call, for a small model."""
    tx, module, batch = optax.adam(1e-3), MLP(32), data(16, 64)
    model = trainkit.from_linen(module, LOSS)
    state = model.state(tx, batch)
    step = trainkit.make_train_step(model, tx, steps_per_call=50)
    theirs = state.params, state.opt_state
    place, hand = hand_written(module, tx, "single", theirs, False)
    fifty = jax.tree.map(lambda x: np.stack([x] * 50), batch)
    sides = {
        "ours": stepped(step, step.place(state), fifty),
        "by hand": stepped(hand, place(theirs), batch),
    }
    took = blocks(sides, effort.of(21))
    yield Row.of("steps_per_call=50, small MLP", 50 * took["by hand"] / took["ours"])


def memory(effort: Effort) -> Iterator[Row]:
    """Bytes of a sharded state; counted, the same in every run."""
    tx, batch = optax.adamw(1e-3), data(64, 1024)
    model = trainkit.from_linen(MLP(1024), LOSS)
    state = model.state(tx, batch)
    sizes = {}
    for name in ("jit", "fsdp"):
        compiled = trainkit.make_train_step(model, tx, placement=name).compile(state, batch)
        sizes[name] = compiled.memory_analysis().argument_size_in_bytes
    devices = jax.device_count()
    note = f"1/{devices} = {1 / devices:.4f} is the least"
    yield Row.of("fsdp / replicated, bytes on a device", [sizes["fsdp"] / sizes["jit"]], note=note)


def imports(effort: Effort) -> Iterator[Row]:
    """The time of `import trainkit` over that of `import jax, optax`."""

    def run(code: str) -> Block:
        return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    took = blocks({"ours": run("import trainkit"), "jax": run("import jax, optax")}, effort.of(9))
    yield Row.of("import trainkit / import jax, optax", took["ours"] / took["jax"])


NAMES = ("single", "pmap", "shard_map", "jit", "fsdp")
CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    **{name: functools.partial(placement, name) for name in NAMES},
    "calls": calls,
    "memory": memory,
    "import": imports,
}
