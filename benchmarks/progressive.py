"""What growing costs: the gap in the stream of steps, and the spike in the loss after it.

    python -m benchmarks.progressive switch   growing and the first step, again and again
    python -m benchmarks.progressive gap      the same in a run, with and without compiling ahead
    python -m benchmarks.progressive spike    identity depth and uneven width, several recipes

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


# Width and depth that the growth doubles the width of, characters and examples of a batch.
SIZES = {"small": ((32, 2), 64, 16), "realistic": ((64, 2), 64, 32)}
# Seconds that the first stage lasts, so that the background has done its work by then.
PATIENCE = 45.0
AFTER = 60


def gap(size: str, ahead: bool) -> tuple[float, float, bool]:
    """The time between the last step before growth and the first after it, in ordinary steps.

    Returns:
      The gap in ordinary steps of the grown model; the seconds of one; and whether the next stage
      was ready by then.
    """
    (width, depth), length, batch = SIZES[size]
    ends: list[tuple[int, float]] = []

    def clock(now: Any) -> None:
        jax.block_until_ready(now.state.params)
        ends.append((now.steps, time.perf_counter()))

    train, _, _ = shakespeare().split()
    stream = Sampler(train.windows(length), batch)
    until_grown = until.steps(30) & until.seconds(PATIENCE if ahead else 1.0)
    last = until_grown | until.steps(10**6)
    result = progressive(
        [Stage(model(width, depth), last), Stage(model(2 * width, depth), until.steps(AFTER))],
        build,
        optax.adamw(1e-3),
        stream,
        [stream.draw((0, 0))[0]],
        decay=0.0,
        ahead=ahead,
        # It reads the clock after the hook that grows: the state is grown by then.
        hooks=[clock],
        progress=False,
        eval_every=10**6,
        log_every=10**6,
    )
    (growth,) = (event for event in result.history if event["event"] == "growth")
    at, steps = dict(ends), growth["step"]
    # The second half: in the first the certificate is being made beside it.
    ordinary = np.median(np.diff([t for n, t in ends if n > steps + AFTER // 2]))
    before = np.median(np.diff([t for n, t in ends if steps - 30 < n < steps]))
    # Between two readings lies a step, and what the hook did before the second of them.
    hook = at[steps] - at[steps - 1] - before
    first = at[steps + 1] - at[steps] - ordinary
    return float((hook + first) / ordinary), float(ordinary), growth["compiled_ahead"]


def switch(size: str, times: int = 20) -> tuple[list[float], float]:
    """Growing and the first step of the grown model, by themselves and without the background.

    Returns:
      What each of some switches took beyond an ordinary step, in ordinary steps (the first is the
      first run of every program since its rehearsal); and the seconds of an ordinary step.
    """
    (width, depth), length, batch = SIZES[size]
    train, _, _ = shakespeare().split()
    stream = Sampler(train.windows(length), batch)
    recipe = Recipe(
        build=build,
        tx=optax.adamw(1e-3),
        data=lambda _: stream,
        validation=[stream.draw((0, 0))[0]],
        grow=grown,
    )
    small = Built(recipe, Stage(model(width, depth)), 0)
    big = Built(recipe, Stage(model(2 * width, depth)), 1)
    passage = Passage(small, big).compile().rehearse()
    state = small.fresh()
    first, ordinary = [], []
    for _ in range(times):
        state, _ = jax.block_until_ready(small.step(state, next(stream)))
        begin = time.perf_counter()
        after, _ = passage(state)
        after, _ = jax.block_until_ready(big.step(after, next(stream)))
        first.append(time.perf_counter() - begin)
        for _ in range(3):
            begin = time.perf_counter()
            after, _ = jax.block_until_ready(big.step(after, next(stream)))
            ordinary.append(time.perf_counter() - begin)
    usual = float(np.median(ordinary))
    return [(seconds - usual) / usual for seconds in first], usual


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
    asked = sys.argv[1:] or ["switch", "gap", "spike"]
    if "switch" in asked:
        for size in SIZES:
            found, usual = switch(size)
            low, middle, high = np.percentile(found, [25, 50, 75])
            print(
                f"switch: {middle:.2f} ordinary steps (of {1e3 * usual:.0f} ms) beyond one, "
                f"quartiles {low:.2f} and {high:.2f}, the first {found[0]:.2f}",
                flush=True,
            )
    if "gap" in asked:
        for size in SIZES:
            for ahead in (True, False):
                found = [gap(size, ahead) for _ in range(3)]
                words = "compiled ahead" if ahead else "compiled when needed"
                shown = ", ".join(
                    f"{gap:.2f}" + ("" if ready or not ahead else " (not ready)")
                    for gap, _, ready in sorted(found)
                )
                step = 1e3 * float(np.median([ordinary for _, ordinary, _ in found]))
                print(f"gap, {words}: {shown} ordinary steps (of {step:.0f} ms)", flush=True)
    if "spike" in asked:
        for name, values in spikes().items():
            print(f"excess loss, {name}: {np.mean(values):+.4f} ± {np.std(values, ddof=1):.4f}")


if __name__ == "__main__":
    main()
