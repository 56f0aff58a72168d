"""What growing costs: the gap in the stream of steps, and the spike in the loss after it.

    python benchmarks/progressive.py gap      with and without compiling ahead
    python benchmarks/progressive.py spike    identity depth and uneven width, several recipes

Ratios in one run, on the machine as it is: the gap is in units of an ordinary step of the grown
model, the spike is the mean excess of the training loss over an ungrown copy on the same batches in
steps 1 to 5.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from experiments.progressive_lm.model import Transformer
from trainkit.data import Sampler, shakespeare
from trainkit.growth import until
from trainkit.growth.grown import grown
from trainkit.growth.stages import Stage
from trainkit.progressive import Built, Passage, Recipe, progressive

LENGTH, BATCH, SMALL, SEEDS = 64, 16, (32, 2), 3


def build(module: Any) -> Any:
    """A module and its loss."""
    return trainkit.from_linen(module, optax.softmax_cross_entropy_with_integer_labels)


def model(width: int, depth: int) -> Transformer:
    """A character transformer."""
    return Transformer(vocabulary=84, width=width, depth=depth)


def data(seed: int = 0) -> Sampler:
    """Windows of the training text."""
    train, _, _ = shakespeare().split()
    return Sampler(train.windows(LENGTH), BATCH, seed=seed)


def gap(ahead: bool) -> tuple[float, bool]:
    """The time between the last step before growth and the first after it, in ordinary steps.

    Also whether the next stage was compiled by then: the first stage is long enough for that.
    """
    steps = 1500 if ahead else 100
    ends: list[tuple[int, float]] = []

    def clock(now: Any) -> None:
        jax.block_until_ready(now.state.params)
        ends.append((now.steps, time.perf_counter()))

    small, big = model(*SMALL), model(2 * SMALL[0], SMALL[1])
    result = progressive(
        [Stage(small, until.steps(steps)), Stage(big)],
        build,
        optax.adamw(1e-3),
        data(),
        [data().draw((0, 0))[0]],
        steps=steps + 60,
        decay=0.0,
        ahead=ahead,
        # Before the hook that grows, the state is the small model's; the first one after it is
        # that of the first step of the big one.
        hooks=[clock],
        progress=False,
        eval_every=10**6,
        log_every=10**6,
    )
    at = dict(ends)
    ordinary = np.median(np.diff([t for n, t in ends if n > steps + 2]))
    # The clock is read after growing: what lies between two of its readings is a step, and what
    # the hook did before the second of them.
    hook = at[steps] - at[steps - 1] - np.median(np.diff([t for n, t in ends if n < steps - 1]))
    first = at[steps + 1] - at[steps] - ordinary
    (growth,) = (event for event in result.history if event["event"] == "growth")
    return float((hook + first) / ordinary), growth["compiled_ahead"]


def spikes() -> dict[str, list[float]]:
    """Excess loss by recipe, one value a seed."""
    rows: dict[str, list[float]] = {}
    width, depth = SMALL
    recipes = {
        "identity depth, carried": (model(width, 2 * depth), {}),
        "identity depth, carried, new leaves re-warmed": (model(width, 2 * depth), {"rewarm": 100}),
        "identity depth, reset": (model(width, 2 * depth), {"moments": "reset"}),
        "uneven width, carried": (model(2 * width, depth), {}),
        "uneven width, carried, lr · c annealed": (model(2 * width, depth), {"anneal": 100}),
        "uneven width, reset": (model(2 * width, depth), {"moments": "reset"}),
    }
    for seed in range(SEEDS):
        stream = data(seed)
        recipe = Recipe(
            build=build,
            tx=optax.adamw(3e-3),
            data=lambda _, stream=stream: stream,
            validation=[stream.draw((0, 0))[0]],
            grow=grown,
            seed=seed,
            warmup=20,
        )
        small = Built(recipe, Stage(model(*SMALL)), 0)
        state = small.fresh()
        for _ in range(600):
            state, _ = small.step(state, next(stream))
        batches = [next(stream) for _ in range(5)]
        alone = follow(small, state, batches)
        for name, (module, options) in recipes.items():
            big = Built(recipe, Stage(module, **options), 1)
            passage = Passage(small, big)
            after = big.step.place(jax.jit(passage.apply)(state))
            excess = np.mean(np.subtract(follow(big, after, batches), alone))
            rows.setdefault(name, []).append(float(excess))
    return rows


def follow(built: Built, state: Any, batches: list[Any]) -> list[float]:
    """The loss after each of some steps, on the batch that comes next, as training sees it."""
    losses = []
    for batch in batches:
        state, metrics = built.step(state, batch)
        losses.append(metrics["loss"])
    # A sixth loss, after the last update, on the first batch: five updates, five excesses.
    last = built.model.evaluation(state.params, state.model_state, batches[0], state.rng)
    losses.append(last.total / last.weight)
    return [float(x) for x in jnp.stack(losses[1:])]


def main() -> None:
    """Prints what was asked for, or both."""
    asked = sys.argv[1:] or ["gap", "spike"]
    if "gap" in asked:
        for ahead in (True, False):
            found = [gap(ahead) for _ in range(3)]
            words = "compiled ahead" if ahead else "compiled when needed"
            shown = ", ".join(
                f"{x:.1f}" + ("" if ready or not ahead else " (not ready)")
                for x, ready in sorted(found)
            )
            print(f"gap, {words}: {shown} ordinary steps", flush=True)
    if "spike" in asked:
        for name, values in spikes().items():
            print(f"excess loss, {name}: {np.mean(values):+.4f} ± {np.std(values, ddof=1):.4f}")


if __name__ == "__main__":
    main()
