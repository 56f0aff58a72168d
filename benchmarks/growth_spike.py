"""The loss just after growth: optimizer state carried, carried exactly, or reset.

    python -m benchmarks.growth_spike                # three seeds, a few minutes on two cores
    python -m benchmarks.growth_spike --seeds 1 --pretrain 100

A character transformer is trained on Shakespeare, grown, and trained on. Every variant sees the
same batches; the small model that goes on alone is the measure. Printed, as mean ± standard
deviation over seeds, in nats per character:

  1-5    excess training loss over steps 1 to 5 after growth
  peak   the largest excess of steps 1 to 50 (of a mean over three steps, to tame batch noise)
  41-50  excess over steps 41 to 50: what is left of it (below 0: the grown model is ahead)

Variants:
  carried     moments by their degrees, the plain rule goes on
  annealed    the same, and exact continuation annealed to the plain rule over 50 steps
  restarted   a fresh optimizer state, the learning rate's warm-up included
  reset       fresh moments and their count, the learning rate goes on
  old count   moments zeroed under the old step count, as a careless surgery leaves them
"""

import argparse
import functools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.progressive_lm.model import Transformer
from trainkit.data import shakespeare
from trainkit.growth import grow
from trainkit.step.state import TrainState

AFTER, BATCH, LENGTH, WARM_UP = 50, 16, 64, 30
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


def summary(excess: np.ndarray) -> tuple[float, float, float]:
    smooth = np.convolve(excess[1:], np.ones(3) / 3, "valid")
    # The first loss is taken before any step: it is the small model's own.
    return float(excess[1:6].mean()), float(smooth.max()), float(excess[41:].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    args = parser.parse_args()
    corpus = shakespeare()
    schedule = optax.warmup_constant_schedule(0.0, args.learning_rate, WARM_UP)
    tx = optax.adamw(schedule, weight_decay=0.01)
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in range(args.seeds):
        excess, before = one_seed(tx, corpus.tokens, len(corpus.vocabulary), seed, args.pretrain)
        print(f"seed {seed}: small model at {before[-20:].mean():.3f} before growth", flush=True)
        for key, values in excess.items():
            rows.setdefault(key, []).append(summary(values))
    print(f"\n{'growth':<24}{'state':<12}{'1-5':>16}{'peak':>16}{'41-50':>16}")
    for (growth, variant), found in rows.items():
        mean, spread = np.mean(found, 0), np.std(found, 0)
        cells = "".join(f"{f'{m:+.3f} ± {s:.3f}':>16}" for m, s in zip(mean, spread, strict=True))
        print(f"{growth:<24}{variant:<12}{cells}")


if __name__ == "__main__":
    main()
