"""A large bf16 transformer, update and growth on one GPU; about 5 minutes there.

Fractions of what the same device reaches with a large bf16 product and with a copy, measured in the
same rounds; and of its data sheet, where that is known. On a CPU the sizes are small and the
numbers mean nothing: it only shows that the part runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
import trainkit.transforms as tt
from benchmarks.effort import Effort
from benchmarks.growing import build, data, prepared
from benchmarks.paired import Block, blocks, timed
from benchmarks.parts.growth import bytes_of
from benchmarks.parts.update import BYTES, Side, copied
from benchmarks.rows import Row
from experiments.progressive_lm.model import Transformer

DEVICES, PEERS = 1, False


def is_small(effort: Effort) -> bool:
    """Whether there is no GPU, or only a trial is wanted."""
    return effort.quick or jax.devices()[0].platform == "cpu"


def products(size: int) -> Block:
    """Ten bf16 products of square matrices."""
    product = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((size, size), jnp.bfloat16)

    def work() -> None:
        x = a
        for _ in range(10):
            x = product(a, x)
        x.block_until_ready()

    return timed(work)


def utilisation(effort: Effort) -> Iterator[Row]:
    """Model FLOPs of a transformer's step, 6·N·tokens and attention, over a product's rate."""
    small = is_small(effort)
    # 24 blocks of width 1,024: 13·width² each, and two tables of 32,768 × 1,024: 394 million.
    width, depth, vocabulary = (64, 2, 256) if small else (1024, 24, 32_768)
    batch, length, size = (2, 64, 256) if small else (16, 1024, 8192)
    own = build(Transformer(vocabulary, width, depth, head_size=16 if small else 128))
    tx = optax.adamw(1e-4)
    tokens = np.random.default_rng(0).integers(0, vocabulary, (batch, length + 1), np.int32)
    rows = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    step = trainkit.make_train_step(own, tx, precision="bfloat16", donate=True)
    state = step.place(own.state(tx, rows))
    count = sum(x.size for x in jax.tree.leaves(state.params))
    flops = 6 * count * batch * length + 12 * depth * width * batch * length**2
    at = [state]

    def steps() -> None:
        for _ in range(4):
            at[0], metrics = step(at[0], rows)
        jax.block_until_ready(metrics)

    took = blocks({"steps": timed(steps), "product": products(size)}, effort.of(9), warm_up=2)
    rate, best = 4 * flops / took["steps"], 10 * 2 * size**3 / took["product"]
    note = f"{count / 1e6:.0f} million parameters, {batch} × {length} tokens"
    yield Row.of("transformer, model FLOPs / those of a bf16 product", rate / best, note=note)
    chip = trainkit.cost.chip_of(jax.devices()[0])
    name = "transformer, model FLOPs utilisation (of the data sheet)"
    if chip is None:
        yield Row.missing(name, "the peak of this device is not known")
    else:
        yield Row.of(name, rate / chip.flops, note=note)
        yield Row.of("bf16 product, of the data sheet", best / chip.flops)


def update(effort: Effort) -> Iterator[Row]:
    """AdamW over large leaves, beside a copy of the bytes it must move."""
    shape, count = ((256, 256), 4) if is_small(effort) else ((4096, 4096), 20)
    params = {f"p{i:02}": jnp.ones(shape) for i in range(count)}
    entries = sum(x.size for x in params.values())
    rules: dict[str, tuple[Any, str, bool]] = {
        "ours float32": (tt.adamw(1e-3), "float32", False),
        "Optax float32": (optax.adamw(1e-3), "float32", False),
        "ours bf16": (tt.adamw(1e-3), "bf16", True),
        "ours 8-bit": (tt.quantise_moments(tt.adamw(1e-3)), "8-bit", False),
    }
    for name, (tx, kind, master) in rules.items():
        total = entries * BYTES[kind]
        sides = {"update": Side(tx, params, master).block(4), "copy": copied(total, 4)}
        took = blocks(sides, effort.of(15), warm_up=2)
        note = f"{entries / 1e6:.0f} million entries"
        yield Row.of(f"{name}, copy / step", took["copy"] / took["update"], note=note)


def growing(effort: Effort) -> Iterator[Row]:
    """Growing a training state, beside a copy of the bytes it must move."""
    width, depth = (64, 2) if is_small(effort) else (768, 12)
    for name, after in (("width × 2", (2 * width, depth)), ("depth × 2", (width, 2 * depth))):
        small, big, transition = prepared(data(), (width, depth), after)
        state, grow = small.initial_state(), jax.jit(transition.apply)
        moved = bytes_of(state) + bytes_of(big.like)
        work = lambda grow=grow, state=state: jax.block_until_ready(grow(state))
        took = blocks(
            {"grow": timed(work), "copy": copied(moved, 1, fresh=True)}, effort.of(15), warm_up=2
        )
        note = f"{moved / 1e6:.0f} MB read and written"
        yield Row.of(f"growing, {name}, copy / growing", took["copy"] / took["grow"], note=note)


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    "mfu": utilisation,
    "update": update,
    "growth": growing,
}
