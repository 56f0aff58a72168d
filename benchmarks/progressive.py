"""What growing costs: the gap in the stream of steps, and the spike in the loss after it.

    python -m benchmarks.progressive switch   growing and the first step, again and again
    python -m benchmarks.progressive gap      in ten whole runs, with and without compiling ahead
    python -m benchmarks.progressive spike    identity depth and uneven width, several recipes

Ratios in one run, on the machine as it is: the gap is in units of an ordinary step of the grown
model, the spike is the mean excess of the training loss over an ungrown copy on the same batches in
steps 1 to 5.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
import trainkit.progressive.run as run_module
from experiments.progressive_lm.model import Transformer
from trainkit.data import Sampler, shakespeare
from trainkit.progressive import Stage, progressive, triggers
from trainkit.progressive.background import Background
from trainkit.progressive.stages.prepared import PreparedStage, Recipe
from trainkit.progressive.transition.grow import grown
from trainkit.progressive.transition.switch import Transition

LENGTH, BATCH, SMALL, SEEDS = 64, 16, (32, 2), 3
GROWTHS = 10  # of which the gap is measured, each in a run of its own


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


# Width and depth before and after a growth, characters and examples of a batch.
SIZES = {
    "small": ((32, 2), (64, 2), 64, 16),
    "realistic": ((64, 2), (128, 2), 64, 32),
}
QUIET = 20  # steps with nothing in the background, before a stage ends


class Watched(Background):
    """Work ahead of which it is known whether any is left."""

    latest: ClassVar[Watched]

    def __init__(self, enabled: bool = True):
        super().__init__(enabled)
        Watched.latest = self

    @property
    def idle(self) -> bool:
        """Whether everything that was begun is done."""
        return all(work.done() for work in self._made.values())


def quiet() -> triggers.Trigger:
    """When nothing has gone on in the background for some steps."""

    def update(steps: Any, seen: triggers.Observation) -> tuple[Any, bool]:
        steps = steps + 1 if Watched.latest.idle else np.int32(0)
        return steps, steps > QUIET

    return triggers.Trigger(lambda: np.int32(0), update, frozenset(), "quiet")


def gap(ahead: bool, seed: int) -> tuple[float, float]:
    """What a growth puts between two steps of a whole run.

    From the end of the last step before the growth to the end of the first after it, less an
    ordinary step of the grown model: choosing the stage, growing the state, the loop's own work and
    whatever the first step takes longer; without working ahead, compiling.

    Returns:
      The gap in ordinary steps of the grown model, and the seconds of one.
    """
    before, after, length, batch = (32, 1), (64, 1), LENGTH, BATCH
    ends: list[float] = []

    def clock(now: Any) -> None:
        # It reads the clock after the hook that grows: the state is grown by then.
        jax.block_until_ready(now.state.params)
        ends.append(time.perf_counter())

    train, _, _ = shakespeare().split()
    stream = Sampler(train.windows(length), batch, seed=seed)
    run_module.Background = Watched
    result = progressive(
        [Stage(model(*before), quiet()), Stage(model(*after), quiet())],
        build,
        optax.adamw(1e-3),
        stream,
        [stream.draw((0, 0))[0]],
        decay=0.0,
        ahead=ahead,
        # Without work ahead a certificate would be made in the middle of the gap.
        certify=ahead,
        seed=seed,
        hooks=[clock],
        progress=False,
        eval_every=10**6,
        log_every=10**6,
    )
    (at,) = (event["step"] for event in result.history if event["event"] == "growth")
    took = np.diff(ends)  # took[n]: step n + 1, and what hooks did after it
    ordinary = float(np.median(took[-QUIET:]))
    small = float(np.median(took[at - QUIET : at - 1]))
    return float((took[at - 1] - small + took[at] - ordinary) / ordinary), ordinary


def switch(size: str, times: int = 20) -> tuple[list[float], float]:
    """Growing and the first step of the grown model, by themselves and without the background.

    Returns:
      What each of some switches took beyond an ordinary step, in ordinary steps (the first is the
      first run of every program since its rehearsal); and the seconds of an ordinary step.
    """
    before, after, length, batch = SIZES[size]
    train, _, _ = shakespeare().split()
    stream = Sampler(train.windows(length), batch)
    recipe = Recipe(
        build=build,
        tx=optax.adamw(1e-3),
        data=lambda _: stream,
        validation=[stream.draw((0, 0))[0]],
        grow=grown,
    )
    small, big = (PreparedStage(recipe, Stage(model(*m)), k) for k, m in enumerate((before, after)))
    transition = Transition(small, big).compile().rehearse()
    state = small.initial_state()
    first, ordinary = [], []
    for _ in range(times):
        state, _ = jax.block_until_ready(small.step(state, next(stream)))
        begin = time.perf_counter()
        grew, _ = transition(state)
        grew, _ = jax.block_until_ready(big.step(grew, next(stream)))
        first.append(time.perf_counter() - begin)
        for _ in range(3):
            begin = time.perf_counter()
            grew, _ = jax.block_until_ready(big.step(grew, next(stream)))
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
        small = PreparedStage(recipe, Stage(model(*SMALL)), 0)
        state = small.initial_state()
        for _ in range(600):
            state, _ = small.step(state, next(stream))
        batches = [next(stream) for _ in range(5)]
        alone = follow(small, state, batches)
        for name, (module, options) in recipes.items():
            big = PreparedStage(recipe, Stage(module, **options), 1)
            transition = Transition(small, big)
            after = big.step.place(jax.jit(transition.apply)(state))
            excess = np.mean(np.subtract(follow(big, after, batches), alone))
            rows.setdefault(name, []).append(float(excess))
    return rows


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
        for ahead in (True, False):
            # Ahead, programs are kept from run to run: what is measured begins when all are there.
            cache = tempfile.mkdtemp() if ahead else None
            jax.config.update("jax_compilation_cache_dir", cache)
            growths = [gap(ahead, seed) for seed in range(GROWTHS)]
            gaps = sorted(one for one, _ in growths)
            step = 1e3 * np.median([ordinary for _, ordinary in growths])
            words = "compiled ahead" if ahead else "compiled when needed"
            print(
                f"gap, {words}: median {np.median(gaps):.2f} ordinary steps (of {step:.0f} ms), "
                f"max {gaps[-1]:.2f}; all: {', '.join(f'{one:.2f}' for one in gaps)}",
                flush=True,
            )
    if "spike" in asked:
        for name, values in spikes().items():
            print(f"excess loss, {name}: {np.mean(values):+.4f} ± {np.std(values, ddof=1):.4f}")


if __name__ == "__main__":
    main()
