"""The loss just after growth: optimizer state carried, carried exactly, or reset.

In nats per character, as excess over the small model that goes on alone with the same batches: a
quality, not a speed; over seeds. A character transformer is trained on Shakespeare, grown, and
trained on. "1-5" is the mean excess of steps 1 to 5, "peak" the largest of steps 1 to 50 (of a mean
over three steps, to tame batch noise), "41-50" what is left of it (below 0: the grown model is
ahead).

  carried     moments by their degrees, the plain rule goes on
  annealed    the same, and exact continuation annealed to the plain rule over 50 steps
  restarted   a fresh optimizer state, the learning rate's warm-up included
  reset       fresh moments and their count, the learning rate goes on
  old count   moments zeroed under the old step count, as a careless surgery leaves them
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.effort import Effort
from benchmarks.growing import LENGTH, data, model, recipe
from benchmarks.rows import Row
from experiments.progressive_lm.model import Transformer
from trainkit.data import shakespeare
from trainkit.growth import grow
from trainkit.progressive import Stage
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.transition.switch import Transition
from trainkit.step.state import TrainState

DEVICES, PEERS = 1, False
AFTER, BATCH, WARM_UP, RATE = 50, 16, 30, 3e-3
SMALL = (32, 2)
GROWTHS = {
    "width 32 → 64, uneven": ((64, 2), "uneven"),
    "depth 2 → 4, identity": ((32, 4), "preserve"),
    "both": ((64, 4), "preserve"),
}


def batches(tokens: np.ndarray, seed: int, count: int) -> jax.Array:
    starts = np.random.default_rng(seed).integers(0, len(tokens) - LENGTH - 1, (count, BATCH))
    return jnp.asarray(tokens[starts[..., None] + np.arange(LENGTH + 1)])


@functools.cache
def runner(module, tx):
    """One program for all variants and seeds of a model and a rule."""

    def step(carry, tokens):
        def loss(params):
            logits = module.apply({"params": params}, tokens[:, :-1])
            labels = tokens[:, 1:]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        params, opt_state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return jax.jit(lambda carry, data: jax.lax.scan(step, carry, data))


def train(module, tx, state: TrainState, data: jax.Array) -> tuple[TrainState, np.ndarray]:
    """Trains on each batch once; the loss at every step."""
    run = runner(module, tx)
    (params, opt_state), losses = run((state.params, state.opt_state), data)
    return state.replace(params=params, opt_state=opt_state), np.asarray(losses)


def fresh_moments(opt_state, fresh):
    """Adam's state as at the start, the schedule's as it is."""
    is_adam = lambda s: isinstance(s, optax.ScaleByAdamState)
    return jax.tree.map(lambda s, f: f if is_adam(s) else s, opt_state, fresh, is_leaf=is_adam)


def old_count(opt_state):
    """Zero moments under the old count."""
    blank = lambda s: s._replace(
        mu=jax.tree.map(jnp.zeros_like, s.mu), nu=jax.tree.map(jnp.zeros_like, s.nu)
    )
    is_adam = lambda s: isinstance(s, optax.ScaleByAdamState)
    return jax.tree.map(lambda s: blank(s) if is_adam(s) else s, opt_state, is_leaf=is_adam)


def one_seed(tx, tokens: np.ndarray, vocabulary: int, seed: int, pretrain: int):
    small = Transformer(vocabulary, *SMALL)
    data = batches(tokens, seed, pretrain + AFTER)
    params = small.init(jax.random.key(seed), data[0, :, :-1])["params"]
    state, before = train(small, tx, TrainState.create(params, tx), data[:pretrain])
    _, alone = train(small, tx, state, data[pretrain:])
    excess = {}
    for name, (size, how) in GROWTHS.items():
        big = Transformer(vocabulary, *size)
        options = {"tx": tx, "how": how, "key": jax.random.key(seed), "with_map": True}
        start, way = grow(state, small, big, data[0, :, :-1], **options)
        follow = way.under("params").exact(tx, anneal=AFTER)
        fresh = start.replace(opt_state=tx.init(start.params))
        zeroed = start.replace(opt_state=old_count(start.opt_state))
        annealed = start.replace(
            opt_state=follow.init(start.params)._replace(inner=start.opt_state)
        )
        for variant, rule, at in (
            ("carried", tx, start),
            ("annealed", follow, annealed),
            ("restarted", tx, fresh),
            ("reset", tx, start.replace(opt_state=fresh_moments(start.opt_state, fresh.opt_state))),
            ("old count", tx, zeroed),
        ):
            _, losses = train(big, rule, at, data[pretrain:])
            excess[name, variant] = losses - alone
    return excess, before


def moments(effort: Effort) -> Iterator[Row]:
    """Every variant of the optimizer state after every growth."""
    corpus = shakespeare()
    schedule = optax.warmup_constant_schedule(0.0, RATE, WARM_UP)
    tx = optax.adamw(schedule, weight_decay=0.01)
    found: dict[str, list[np.ndarray]] = {}
    for seed in range(effort.of(3)):
        pretrain = effort.size(300, 40)
        excess, _ = one_seed(tx, corpus.tokens, len(corpus.vocabulary), seed, pretrain)
        for (growth, variant), values in excess.items():
            found.setdefault(f"{growth}, {variant}", []).append(values)
    for name, seeds in found.items():
        # The first loss is taken before any step: it is the small model's own.
        mean = lambda part, seeds=seeds: [float(values[part].mean()) for values in seeds]
        smooth = [np.convolve(values[1:], np.ones(3) / 3, "valid").max() for values in seeds]
        yield Row.of(f"{name}, 1-5", mean(slice(1, 6)), unit="nats")
        yield Row.of(f"{name}, peak", smooth, unit="nats")
        yield Row.of(f"{name}, 41-50", mean(slice(41, None)), unit="nats")


def recipes(effort: Effort) -> Iterator[Row]:
    """The options of a stage, in steps 1 to 5."""
    rows: dict[str, list[float]] = {}
    width, depth = SMALL
    options_of: dict[str, tuple[Any, dict[str, Any]]] = {
        "identity depth, carried": (model(width, 2 * depth), {}),
        "identity depth, carried, new leaves re-warmed": (model(width, 2 * depth), {"rewarm": 100}),
        "identity depth, reset": (model(width, 2 * depth), {"moments": "reset"}),
        "uneven width, carried": (model(2 * width, depth), {}),
        "uneven width, carried, lr · c annealed": (model(2 * width, depth), {"anneal": 100}),
        "uneven width, reset": (model(2 * width, depth), {"moments": "reset"}),
    }
    for seed in range(effort.of(3)):
        stream = data(BATCH, seed)
        shared = recipe(stream, RATE, seed=seed, warmup=20)
        small = PreparedStage(shared, Stage(model(*SMALL)), 0)
        state = small.initial_state()
        for _ in range(effort.size(600, 40)):
            state, _ = small.step(state, next(stream))
        batches = [next(stream) for _ in range(5)]
        alone = follow(small, state, batches)
        for name, (module, options) in options_of.items():
            big = PreparedStage(shared, Stage(module, **options), 1)
            transition = Transition(small, big)
            after = big.step.place(jax.jit(transition.apply)(state))
            excess = np.mean(np.subtract(follow(big, after, batches), alone))
            rows.setdefault(name, []).append(float(excess))
    for name, values in rows.items():
        yield Row.of(f"{name}, 1-5", values, unit="nats")


def follow(stage: PreparedStage, state: Any, batches: list[Any]) -> list[float]:
    """The loss after each of some steps, on the batch that comes next, as training sees it."""
    losses = []
    for batch in batches:
        state, metrics = stage.step(state, batch)
        losses.append(metrics["loss"])
    # A sixth loss, after the last update, on the first batch: five updates, five excesses.
    last = stage.model.evaluation(state.params, state.model_state, batches[0], state.rng)
    losses.append(last.total / last.weight)
    return [float(x) for x in jnp.stack(losses[1:])]


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {"moments": moments, "recipes": recipes}
