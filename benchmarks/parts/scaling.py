"""Cost as work grows: step, planning and checkpoints against size, with slopes and pictures.

A slope is the exponent p of seconds ≈ c · sizeᵖ: 1 is proportional, 0 does not depend on the size.
In every round all sizes are measured, in an order drawn anew, and give one slope. Pictures are in
docs/img.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from benchmarks.by_hand import MLP
from benchmarks.effort import Effort
from benchmarks.growing import build, model
from benchmarks.paired import Block, blocks, timed
from benchmarks.parts.step import LOSS, data, stepped
from benchmarks.parts.update import Side
from benchmarks.planning import BIG, SMALL, block, shapes, unrolled
from benchmarks.plots import FOLDER, draw, slope
from benchmarks.rows import Row
from trainkit import growth

DEVICES, PEERS = 8, False


def fitted(
    case: str, what: str, axis: str, sides: Mapping[float, Block], effort: Effort, rounds: int = 9
) -> Iterator[Row]:
    """Measures all sizes, draws them and returns the slope."""
    took = blocks({str(size): block for size, block in sides.items()}, effort.of(rounds))
    sizes, seconds = list(sides), np.stack(list(took.values()), 1)
    if not effort.quick:
        draw(FOLDER / f"scaling-{case}.png", what, axis, sizes, seconds)
    ends = " and ".join(f"{size:,.0f}" for size in (sizes[0], sizes[-1]))
    times = " and ".join(f"{1e3 * np.median(x):.3g}" for x in (seconds[:, 0], seconds[:, -1]))
    note = f"{times} ms at {ends}"
    yield Row.of(f"{what}, slope over {axis}", [slope(sizes, x) for x in seconds], note=note)


def sizes_of(effort: Effort, values: list[int]) -> list[int]:
    """All sizes, or the first two for a quick run."""
    return values[:2] if effort.quick else values


def mlp(width: int, batch_size: int, steps: int, **options: Any) -> tuple[Block, int]:
    """A block of steps of an MLP, and the number of its parameters."""
    tx, batch = optax.adam(1e-3), data(batch_size, 784)
    own = trainkit.from_linen(MLP(width), LOSS)
    step, state = trainkit.make_train_step(own, tx, **options), own.state(tx, batch)
    count = sum(x.size for x in jax.tree.leaves(state.params))
    return stepped(step, step.place(state), batch, steps), count


def parameters(effort: Effort) -> Iterator[Row]:
    """The step against the parameters, from wide enough to be arithmetic."""
    widths = sizes_of(effort, [128, 256, 512, 1024, 2048])
    found = [mlp(width, 64, 4) for width in widths]
    sides = {count: block for block, count in found}
    yield from fitted("parameters", "step, MLP, batch 64", "parameters", sides, effort)


def batch(effort: Effort) -> Iterator[Row]:
    """The step against the examples of a batch."""
    sizes = sizes_of(effort, [32, 128, 512, 2048])
    sides = {size: mlp(512, size, 4)[0] for size in sizes}
    yield from fitted("batch", "step, MLP 512 wide", "batch size", sides, effort)


def sequence(effort: Effort) -> Iterator[Row]:
    """The step of a transformer against the length, with the tokens of a batch kept."""
    tx, sides = optax.adam(1e-3), {}
    own = build(model(64, 2))
    for length in sizes_of(effort, [64, 128, 256, 512]):
        tokens = np.random.default_rng(0).integers(0, 84, (2, 2048 // length, length + 1))[0]
        tokens = tokens.astype(np.int32)
        rows = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        step = trainkit.make_train_step(own, tx)
        sides[length] = stepped(step, step.place(own.state(tx, rows)), rows, 2)
    what = "step, transformer, 2,048 tokens"
    yield from fitted("sequence", what, "length", sides, effort)


def leaves(effort: Effort) -> Iterator[Row]:
    """The update against the number of leaves of 256 entries."""
    sides = {}
    for count in sizes_of(effort, [16, 64, 256, 1024]):
        params = {f"p{i:04}": jnp.ones((16, 16)) for i in range(count)}
        sides[count] = Side(optax.adamw(1e-3), params).block(10)
    yield from fitted("leaves", "update, leaves of 256", "leaves", sides, effort)


def devices(effort: Effort) -> Iterator[Row]:
    """The step with one batch over more devices; on a CPU they share its cores."""
    counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    if len(counts) < 2:
        yield Row.missing("step, slope over devices", "there is one device")
        return
    sides = {n: mlp(512, 256, 4, placement="shard_map", devices=n)[0] for n in counts}
    yield from fitted("devices", "step, MLP, batch 256", "devices", sides, effort)


def planned(layers: int, length: int) -> Block:
    """The CPU time of planning a width growth."""
    tokens = jax.ShapeDtypeStruct((4, length), jnp.int32)
    small, big = shapes(SMALL, layers), shapes(BIG, layers)

    def plan() -> None:
        jax.clear_caches()
        own = unrolled(block)
        growth.plan(own, own, small, big, tokens)

    return timed(plan, time.process_time)


def planning(axis: str, effort: Effort) -> Iterator[Row]:
    """Planning against layers, or against the length of the sequence."""
    if axis == "layers":
        sizes = sizes_of(effort, [2, 4, 8, 16])
        sides = {n: planned(n, 512) for n in sizes}
    else:
        sizes = sizes_of(effort, [128, 512, 2048, 8192])
        sides = {n: planned(2, n) for n in sizes}
    yield from fitted(f"planning-{axis}", "planning (CPU time)", axis, sides, effort, rounds=5)


def checkpoint(effort: Effort) -> Iterator[Row]:
    """Saving, until it is on disk, against the bytes."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for megabytes in sizes_of(effort, [1, 4, 16, 64, 256]):
            held = {f"leaf{i}": jnp.ones(megabytes * 25_000 // 2) for i in range(20)}
            sides[megabytes] = saved(held, Path(folder))
        yield from fitted("checkpoint", "checkpoint, 20 leaves", "megabytes", sides, effort, 5)


def saved(held: Any, folder: Path) -> Block:
    """Saves into a new folder each time, which is then removed."""

    def block() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            return timed(lambda: trainkit.checkpoint.save(Path(inside) / "one", held))()

    return block


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "parameters": parameters,
    "batch": batch,
    "sequence": sequence,
    "leaves": leaves,
    "devices": devices,
    "planning-layers": functools.partial(planning, "layers"),
    "planning-sequence": functools.partial(planning, "sequence"),
    "checkpoint": checkpoint,
}
