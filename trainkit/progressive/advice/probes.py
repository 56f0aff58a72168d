"""Short runs of one choice: they train, grow and decay as a run of `progressive` does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainkit.data.sampler import Position
from trainkit.progressive.advice.choices import Choice
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.stages.pace import begin_decay
from trainkit.progressive.stages.prepared import PreparedStage, Recipe
from trainkit.progressive.stages.stage import Stage
from trainkit.progressive.transition.switch import Transition
from trainkit.step.state import TrainState

RUNGS = 4  # budgets of a short run; each is twice the one before


class Probed(NamedTuple):
    """What the short runs of one choice came to, with one seed.

    Attributes:
      flops: of training and growing, [rungs], ascending.
      losses: at the end of each, with a learning rate that has fallen to 0.
      before_growth: the loss just before it grew, at the full rate; `None`: it does not grow.
      ledger: everything that was spent.
    """

    flops: tuple[float, ...]
    losses: tuple[float, ...]
    before_growth: float | None
    ledger: Ledger

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**self._asdict(), "ledger": self.ledger.to_json()}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Probed:
        """The inverse of `to_json`."""
        lists = {name: tuple(saved[name]) for name in ("flops", "losses")}
        ledger = Ledger.from_json(saved["ledger"])
        return cls(**lists, before_growth=saved["before_growth"], ledger=ledger)


def rungs_of(top: float) -> list[float]:
    """The budgets of short runs, of which the last is `top`."""
    return [top / 2**k for k in reversed(range(RUNGS))]


def cost_of_rungs(decay: float) -> float:
    """What a run to all rungs costs, for a `top` of 1: the full rate, and a decay from each."""
    return 1 - decay + decay * sum(rungs_of(1.0))


class Prober:
    """Trains choices for short budgets.

    Args:
      recipe: the settings of the run.
      decay: the share of every budget over which the learning rate falls to 0.
      metric: the name of the loss.
    """

    def __init__(self, recipe: Recipe, decay: float, metric: str):
        # Branches start from states that must stay; a certificate is for the run itself.
        options = {k: v for k, v in recipe.options.items() if k != "steps_per_call"}
        options["donate"] = False
        self.recipe = dataclasses.replace(recipe, options=options, certify=False)
        self.decay, self.metric = decay, metric
        self._stages: list[tuple[Stage, int, PreparedStage]] = []
        self._transitions: dict[tuple[int, int], Transition] = {}

    def prepared(self, stage: Stage, number: int = 0) -> PreparedStage:
        """A stage with its programs, as the first or a later one of a run."""
        # Equal up to its trigger, which has no part in a probe.
        stage = dataclasses.replace(stage, until=None)
        for known, at, found in self._stages:
            if known == stage and at == number:
                return found
        found = PreparedStage(self.recipe, stage, number)
        self._stages.append((stage, number, found))
        return found

    def flops_per_step(self, choice: Choice) -> float:
        """FLOPs of a step of the stage that a choice ends with."""
        return self.prepared(choice.ends_with, len(choice.stages) - 1).flops_per_step

    def transition(self, choice: Choice) -> Transition:
        """The growth of a choice, compiled."""
        small, big = (self.prepared(stage, at) for at, stage in enumerate(choice.stages))
        key = id(small), id(big)
        if key not in self._transitions:
            self._transitions[key] = Transition(small, big).compile()
        return self._transitions[key]

    def train(self, choice: Choice, seed: int, budgets: Sequence[float]) -> Probed:
        """The short runs of a choice; budgets that are over before it has grown are left out.

        Args:
          choice: what to train.
          seed: added to that of the recipe, for the initial parameters and the order of the data.
          budgets: FLOPs of training and growing, ascending.

        Raises:
          ValueError: the data end before the largest budget.
        """
        last = self.prepared(choice.stages[0])
        run = _Run(last.initial_state(self.recipe.seed + seed), _begin(last, seed), self.metric)
        before = None
        if choice.grows:
            run.train(last, choice.steps)
            before = run.measure(last)
            transition = self.transition(choice)
            run.grow(transition)
            last = transition.big
        flops, losses = [], []
        for budget in budgets:
            full = budget * (1 - self.decay)
            if full < run.spent:
                continue
            run.train(last, round((full - run.spent) / last.flops_per_step))
            steps = max(1, round((budget - run.spent) / last.flops_per_step))
            flops.append(run.spent + steps * last.flops_per_step)
            losses.append(run.decayed(last, steps))
        return Probed(tuple(flops), tuple(losses), before, run.ledger)


class _Run:
    """A run at the full rate, from which others branch off to decay."""

    def __init__(self, state: TrainState, position: Position, metric: str):
        self.state, self.position, self.metric = state, position, metric
        self.spent, self.ledger, self.steps = 0.0, Ledger(), 0

    def train(self, stage: PreparedStage, steps: int) -> None:
        self.state, self.position = self._trained(stage, steps)
        self.spent += steps * stage.flops_per_step
        self.steps += steps

    def decayed(self, stage: PreparedStage, steps: int) -> float:
        """The loss after a decay from here, which the run itself does not take part in."""
        state, position = self.state, self.position
        pace = begin_decay(state.opt_state, at=self.steps, steps=steps)
        self.state = state.replace(opt_state=pace)
        self.state, _ = self._trained(stage, steps)
        loss = self.measure(stage)
        self.state, self.position = state, position
        return loss

    def measure(self, stage: PreparedStage) -> float:
        self.ledger = self.ledger.plus(evaluate=stage.evaluation.flops)
        found = stage.evaluation(self.state)
        if self.metric not in found:
            raise ValueError(
                f"The evaluation has no metric {self.metric!r}; it has {', '.join(sorted(found))}: "
                "give advise(metric=…) one of these."
            )
        return float(found[self.metric])

    def grow(self, transition: Transition) -> None:
        self.state, _ = transition(self.state)
        self.spent += transition.flops
        self.ledger = self.ledger.plus(growth=transition.flops)
        small, big = transition.small, transition.big
        if big.stage.data != small.stage.data:
            # From the same fraction of an epoch, as in a run.
            epoch, offset = self.position
            self.position = Position(epoch, round(offset / small.data.size * big.data.size))

    def _trained(self, stage: PreparedStage, steps: int) -> tuple[TrainState, Position]:
        state, position = self.state, self.position
        for done in range(steps):
            try:
                batch, position = stage.data.draw(position)
            except StopIteration:
                raise ValueError(
                    f"The data end after {self.steps + done} steps, but the probes need "
                    f"{steps - done} more: give a trainkit.data.Sampler, which repeats its data."
                ) from None
            state, _ = stage.step(state, batch)
        self.ledger = self.ledger.plus(
            train=steps * stage.flops_per_step,
            analytic=steps * stage.per_batch * stage.analytic_per_example,
        )
        return state, position


def _begin(stage: PreparedStage, seed: int) -> Position:
    """Where the data begin; other seeds have the order of other epochs."""
    epoch, offset = stage.data.position
    return Position(epoch + seed, offset)


def array_of(probed: Sequence[Probed]) -> tuple[np.ndarray, np.ndarray]:
    """The FLOPs [rungs] and the losses [rungs, seeds] of one choice."""
    flops = np.asarray(probed[0].flops, np.float64)
    losses = np.asarray([one.losses for one in probed], np.float64).T
    assert not len(flops) or math.isclose(flops[-1], probed[-1].flops[-1])
    return flops, losses
