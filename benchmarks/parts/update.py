"""An update rule beside Optax's and PyTorch's fused one: 300 small and 10 large leaves.

A step is update and apply of AdamW, jitted, with parameters and state donated. "copy / step" is
the time of a copy of as many bytes as the step must move, over the step's: 1 is as fast as the
memory. More than 1 against others: ours is faster.
"""

from __future__ import annotations

import functools
import gc
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import trainkit.transforms as tt
from benchmarks.effort import Effort
from benchmarks.paired import Block, blocks, steady
from benchmarks.peers.environment import Missing, python_of
from benchmarks.peers.worker import Worker
from benchmarks.rows import Row
from trainkit.packed import Packed

DEVICES, PEERS = 1, True
RATE = 1e-3
# Shapes of the leaves.
SIZES = {
    "small": [(16, 16), (16,), (16, 8)] * 100,  # as in a model of many small layers
    "large": [(1024, 1024)] * 10,
}
MATRIX = (64, 256)
WORDS = {"small": "300 small leaves", "large": "10 large leaves"}
# Bytes that a step must move for an entry: what is read, and what is written.
BYTES = {
    "float32": 4 * 4 + 3 * 4,  # parameter, gradient, two moments; all but the gradient
    "bf16": 2 + 3 * 4 + 3 * 4 + 2,  # a gradient in bf16, master weights; a parameter in bf16 too
    "8-bit": 4 + 4 + 2 + 4 + 2,  # moments of a byte each
}


def leaves(size: str) -> dict[str, jax.Array]:
    """Random parameters."""
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {f"p{i:03}": draw(shape) for i, shape in enumerate(SIZES[size])}


class Side:
    """One jitted step with the parameters and state that it has come to."""

    def __init__(self, tx: optax.GradientTransformation, params: Any, master: bool = False):
        self.tx, self.master = tx, master
        self.params = jax.tree.map(jnp.copy, params)
        self.grads = jax.tree.map(lambda p: 0.01 * p, params)
        if master:
            self.grads = self.half(self.grads)
        self.state = tx.init(self.params)
        self.step = self.fresh()

    @staticmethod
    def half(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)

    def fresh(self) -> Any:
        """The step, not yet compiled."""

        def step(params: Any, state: Any, grads: Any) -> Any:
            grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
            updates, state = self.tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return params, state, self.half(params) if self.master else None

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

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        begun = time.perf_counter()
        for _ in range(steps):
            self.params, self.state, half = self.step(self.params, self.state, self.grads)
        jax.block_until_ready((self.params, self.state, half))
        return time.perf_counter() - begun


def copied(total: float, *, fresh: bool = False) -> Block:
    """Copies that read and write `total` bytes each.

    In place, as a donated state is updated; or `fresh`, into memory that is allocated for it.
    """
    copy = jax.jit(lambda x: x + 1, donate_argnums=() if fresh else 0)
    x = [copy(jnp.zeros(max(int(total / 2 / 4), 1), jnp.float32))]

    def run(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            x[0] = copy(x[0])
        x[0].block_until_ready()
        return time.perf_counter() - begun

    return steady(run)


def updates(size: str, effort: Effort) -> Iterator[Row]:
    """All rules over the same leaves, taking turns."""
    params = leaves(size)
    entries = sum(x.size for x in params.values())
    ours, theirs = tt.adamw(RATE), optax.adamw(RATE)
    sides = {
        "ours": steady(Side(ours, params).run),
        "Optax": steady(Side(theirs, params).run),
        "ours bf16": steady(Side(ours, params, True).run),
        "Optax bf16": steady(Side(theirs, params, True).run),
        "packed": steady(Side(ours, Packed.pack(params)).run),
        "packed bf16": steady(Side(ours, Packed.pack(params), True).run),
        **{f"copy {kind}": copied(entries * BYTES[kind]) for kind in ("float32", "bf16")},
    }
    worker, reason = None, ""
    try:
        worker = Worker(python_of("torch"), "torch_update", size)
        for kind in ("float32", "bf16"):
            key = "torch" + (" bf16" if kind == "bf16" else "")
            sides[key] = steady(functools.partial(worker.ask, "block", kind))
        took = blocks(sides, effort.of(31))
    except Missing as error:
        reason = str(error)
        took = blocks({k: v for k, v in sides.items() if "torch" not in k}, effort.of(31))
    finally:
        if worker:
            worker.close()
    yield from rows(size, took, reason)


def rows(size: str, took: dict[str, np.ndarray], reason: str) -> Iterator[Row]:
    """The ratios of one size."""
    words = WORDS[size]
    yield Row.of(f"{words}, float32, over Optax", took["Optax"] / took["ours"], least=1.0)
    least = 3.0 if size == "small" else None
    yield Row.of(f"{words}, packed, over Optax", took["Optax"] / took["packed"], least=least)
    yield Row.of(f"{words}, bf16 with master weights, over Optax",
                 took["Optax bf16"] / took["ours bf16"], least=1.0)  # fmt: skip
    for kind, end in (("float32", ""), ("bf16", " bf16")):
        name = f"{words}, {kind}, over PyTorch fused"
        if reason:
            yield Row.missing(name, reason)
            continue
        yield Row.of(name, took["torch" + end] / took["ours" + end])
        yield Row.of(f"{name}, packed", took["torch" + end] / took["packed" + end])
    sides = [("ours", "float32"), ("packed", "float32"), ("Optax", "float32")]
    sides += [("ours bf16", "bf16"), ("packed bf16", "bf16")]
    sides += [] if reason else [("torch", "float32"), ("torch bf16", "bf16")]
    for side, kind in sides:
        yield Row.of(f"{words}, {side}, copy / step", took[f"copy {kind}"] / took[side])


def eight_bit(effort: Effort) -> Iterator[Row]:
    """Moments of 8 bits, beside Optax's in float32: it has none of 8 bits."""
    for size in SIZES:
        params = leaves(size)
        total = sum(x.size for x in params.values()) * BYTES["8-bit"]
        sides = {
            "ours": steady(Side(tt.quantise_moments(tt.adamw(RATE), min_size=1), params).run),
            "Optax": steady(Side(optax.adamw(RATE), params).run),
            "copy": copied(total),
        }
        took = blocks(sides, effort.of(9))
        what = f"{WORDS[size]}, 8-bit moments"
        yield Row.of(f"{what}, over Optax in float32", took["Optax"] / took["ours"])
        yield Row.of(f"{what}, copy / step", took["copy"] / took["ours"])


def program(effort: Effort) -> Iterator[Row]:
    """Instructions of the compiled step, and the time to compile it, over Optax's."""
    for size in SIZES:
        params = leaves(size)
        ours, theirs = Side(tt.adamw(RATE), params), Side(optax.adamw(RATE), params)
        texts = [side.lowered() for side in (ours, theirs)]
        counts = [len(re.findall(r"(?m)^\s+\S.* = ", x.compile().as_text())) for x in texts]
        same = texts[0].as_text() == texts[1].as_text()
        note = "the same program" if same else "two programs"
        ratio = [counts[0] / counts[1]]
        yield Row.of(f"{WORDS[size]}, instructions, ours / Optax", ratio, note=note)
        sides = {"ours": ours.compile_time, "theirs": theirs.compile_time}
        took = blocks(sides, effort.of(7))
        name = f"{WORDS[size]}, CPU time to compile, ours / Optax"
        yield Row.of(name, took["ours"] / took["theirs"], most=1.02)


def clipping(effort: Effort) -> Iterator[Row]:
    """Descent whose gradients are clipped by their norm: its step, and the time to compile it."""
    for size in SIZES:
        params = leaves(size)
        # Gradients are far longer than 1: they are clipped.
        ours, theirs = (
            Side(optax.chain(clip(1.0), optax.sgd(RATE)), params)
            for clip in (tt.clip_by_global_norm, optax.clip_by_global_norm)
        )
        what = f"{WORDS[size]}, clip_by_global_norm"
        took = blocks({"ours": steady(ours.run), "Optax": steady(theirs.run)}, effort.of(15))
        yield Row.of(f"{what}, over Optax", took["Optax"] / took["ours"], least=1.0)
        took = blocks({"ours": ours.compile_time, "Optax": theirs.compile_time}, effort.of(7))
        # The second reading, where squares overflow, is compiled too: no target.
        yield Row.of(f"{what}, CPU time to compile, ours / Optax", took["ours"] / took["Optax"])


def accumulation(effort: Effort) -> Iterator[Row]:
    """A micro-step that accumulates over eight, beside a plain step."""
    for size in SIZES:
        params = leaves(size)
        cycles = lambda tx, params=params: eight(Side(tx, params).run)
        multi = optax.MultiSteps(optax.adamw(RATE), 8).gradient_transformation()
        sides = {
            "plain": cycles(optax.adamw(RATE)),
            "ours": cycles(tt.accumulate(tt.adamw(RATE), 8)),
            "MultiSteps": cycles(multi),
        }
        took = blocks(sides, effort.of(15))
        what = f"{WORDS[size]}, accumulate 8"
        yield Row.of(f"{what}, over MultiSteps", took["MultiSteps"] / took["ours"], least=1.0)
        yield Row.of(f"{what}, micro-step / step", took["ours"] / took["plain"], most=1.6)


def eight(run: Callable[[int], float]) -> Block:
    """A block of whole cycles of eight micro-steps."""
    return steady(lambda cycles: run(8 * cycles))


def matrices(effort: Effort) -> Iterator[Row]:
    """Rules that see matrices, over 30 of 64 x 256; bases and roots are refreshed as by default."""
    rng = np.random.default_rng(0)
    params = {f"p{i:02}": jnp.asarray(rng.normal(size=MATRIX), jnp.float32) for i in range(30)}
    rules = {
        "muon": tt.muon(RATE), "normuon": tt.normuon(RATE), "dion": tt.dion(RATE),
        "shampoo": tt.shampoo(RATE), "soap": tt.soap(RATE), "kron": tt.kron(RATE),
    }  # fmt: skip
    sides = {name: Side(tx, params) for name, tx in rules.items()}
    sides |= {"AdamW": Side(tt.adamw(RATE), params)}
    sides |= {"Optax's muon": Side(optax.contrib.muon(RATE), params)}
    # Whole periods of ten steps, in which everything is refreshed once.
    turns = {name: steady(lambda n, run=side.run: run(10 * n)) for name, side in sides.items()}
    took = blocks(turns, effort.of(5))
    words = "30 leaves of 64 x 256"
    yield Row.of(f"{words}, muon over Optax's", took["Optax's muon"] / took["muon"], least=0.98)
    for name in rules:
        yield Row.of(f"{words}, {name} / AdamW", took[name] / took["AdamW"])


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {
    **{size: functools.partial(updates, size) for size in SIZES},
    "8-bit": eight_bit,
    "program": program,
    "clip": clipping,
    "accumulate": accumulation,
    "matrices": matrices,
}
