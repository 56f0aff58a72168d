"""Whole runs of one choice, all seeds side by side under `vmap`: what advice is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.data import Sampler
from trainkit.data.sampler import Position
from trainkit.progressive import Data
from trainkit.progressive.advice.choices import Choice
from trainkit.progressive.advice.probes import Prober
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.transition.switch import Transition

PyTree = Any
CHUNK = 20  # steps a call


class Programs(NamedTuple):
    """Of one stage, for all seeds.

    Attributes:
      train: states [seeds], batches [seeds, steps, ...] -> states [seeds].
      measure: states [seeds] -> validation losses [seeds].
    """

    train: Callable[[PyTree, PyTree], PyTree]
    measure: Callable[[PyTree], jax.Array]


class Judges:
    """Trains choices to several budgets, with the growth, warm-up and decay of a run.

    Args:
      prober: prepares the stages and their growth.
      data: seed -> `Data` -> `Sampler`.
      seeds: of the runs.
    """

    def __init__(
        self, prober: Prober, data: Callable[[int], Callable[[Data], Sampler]], seeds: Sequence[int]
    ):
        self._prober, self._seeds = prober, seeds
        self._data = [data(seed) for seed in seeds]
        self._programs: dict[int, Programs] = {}

    def train(self, choice: Choice, budgets: Sequence[float]) -> tuple[list[float], np.ndarray]:
        """The FLOPs of each budget that is not over before the growth, and losses [seeds, budgets].

        Args:
          choice: what to train.
          budgets: FLOPs of training and growing, ascending.
        """
        stage = self._prober.prepared(choice.stages[0])
        run = _Run(self, stage, self._fresh(stage))
        if choice.grows:
            run.train(choice.steps)
            run.grow(self._prober.transition(choice))
        flops, losses = [], []
        for budget in budgets:
            full = budget * (1 - self._prober.decay)
            if full < run.spent:
                continue
            run.train(round((full - run.spent) / run.stage.flops_per_step))
            steps = max(1, round((budget - run.spent) / run.stage.flops_per_step))
            flops.append(run.spent + steps * run.stage.flops_per_step)
            losses.append(run.decayed(steps))
        return flops, np.stack(losses, axis=1)

    def programs(self, stage: PreparedStage) -> Programs:
        """Those of a stage, which the prober keeps as long as this object."""
        if id(stage) not in self._programs:
            self._programs[id(stage)] = _programs(stage)
        return self._programs[id(stage)]

    def samplers(self, stage: PreparedStage) -> list[Sampler]:
        """One for each seed, because each remembers the order of one epoch."""
        return [data(stage.stage.data) for data in self._data]

    def _fresh(self, stage: PreparedStage) -> PyTree:
        states = [stage.initial_state(seed) for seed in self._seeds]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


class _Run:
    """All seeds of a run at the full rate, from which others branch off to decay."""

    def __init__(self, judges: Judges, stage: PreparedStage, states: PyTree):
        self._judges, self.stage, self.states, self.spent = judges, stage, states, 0.0
        self._samplers = judges.samplers(stage)
        self._places = [sampler.position for sampler in self._samplers]

    def train(self, steps: int) -> None:
        self.states, self._places = self._trained(self.states, steps)
        self.spent += steps * self.stage.flops_per_step

    def decayed(self, steps: int) -> np.ndarray:
        """The losses [seeds] after a decay from here, in which the run itself has no part."""
        pace = self.states.opt_state
        length = jnp.full_like(pace.decay_steps, steps)
        pace = pace._replace(decay_at=pace.step, decay_steps=length)
        ended, _ = self._trained(self.states.replace(opt_state=pace), steps)
        return np.asarray(self._judges.programs(self.stage).measure(ended), np.float64)

    def grow(self, transition: Transition) -> None:
        self.states = jax.jit(jax.vmap(transition.apply))(self.states)
        self.spent += transition.flops
        self.stage = transition.big
        # From the same fraction of an epoch, as in a run.
        before, self._samplers = self._samplers, self._judges.samplers(self.stage)
        self._places = [
            Position(epoch, round(offset / old.size * new.size))
            for (epoch, offset), old, new in zip(self._places, before, self._samplers, strict=True)
        ]

    def _trained(self, states: PyTree, steps: int) -> tuple[PyTree, list[Position]]:
        train, places = self._judges.programs(self.stage).train, list(self._places)
        for done in range(0, steps, CHUNK):
            batches = []
            for k, sampler in enumerate(self._samplers):
                for _ in range(min(CHUNK, steps - done)):
                    batch, places[k] = sampler.draw(places[k])
                    batches.append(batch)
            by_seed = lambda *x: np.stack(x).reshape(len(places), -1, *x[0].shape)
            states = train(states, jax.tree.map(by_seed, *batches))
        return states, places


def _programs(stage: PreparedStage) -> Programs:
    program, model = stage.step.program, stage.model

    def train(state: PyTree, batches: PyTree) -> PyTree:
        return jax.lax.scan(lambda state, batch: (program(state, batch)[0], None), state, batches)[
            0
        ]

    def measure(state: PyTree, batch: PyTree) -> tuple[jax.Array, jax.Array]:
        found = model.evaluation(state.params, state.model_state, batch, state.rng)
        return found.total, found.weight

    measured = jax.jit(jax.vmap(measure, (0, None)))

    def mean(states: PyTree) -> jax.Array:
        sums = [measured(states, batch) for batch in stage.recipe.validation]
        return sum(total for total, _ in sums) / sum(weight for _, weight in sums)

    return Programs(jax.jit(jax.vmap(train)), mean)
