"""What is compared: every size alone, and growing from each size, at several times."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trainkit.progressive.stages import triggers
from trainkit.progressive.stages.stage import Alternatives, Stage, StageError


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to spend the budget.

    Attributes:
      name: in reports.
      stages: one that is trained alone, or two, of which the second is grown from the first.
      steps: of the first stage, before it grows; 0 for a size alone.
      share: of the budget, at which it grows; 0 for a size alone.
    """

    name: str
    stages: tuple[Stage, ...]
    steps: int = 0
    share: float = 0.0

    @property
    def grows(self) -> bool:
        """Whether there is a growth."""
        return len(self.stages) > 1

    @property
    def ends_with(self) -> Stage:
        """The stage that it ends with."""
        return self.stages[-1]


def sizes_of(levels: Sequence[Alternatives], alone: Sequence[Stage] | None) -> list[Stage]:
    """The stages to be trained alone: those given, or every different one there is.

    Raises:
      StageError: there are fewer than two stages, or one that is given has no model.
    """
    if len(levels) < 2:
        raise StageError(
            "There is only one stage, so there is nothing to advise on: give at least two, such as "
            "[Stage(small, triggers.advised()), Stage(big)]."
        )
    if alone is not None:
        if not alone or any(stage.model is None for stage in alone):
            raise StageError("alone= must be a list of Stages that each have a model.")
        return [dataclasses.replace(stage, until=None) for stage in alone]
    found: list[Stage] = []
    for stage in (stage for level in levels for stage in level):
        if not any(same_training(stage, other) for other in found):
            found.append(dataclasses.replace(stage, until=None))
    return found


def same_training(a: Stage, b: Stage) -> bool:
    """Whether two stages train the same from scratch."""
    return (a.model, a.data, a.learning_rate) == (b.model, b.data, b.learning_rate)


def growths_of(levels: Sequence[Alternatives]) -> list[tuple[Stage, Stage]]:
    """Every pair of an earlier stage and one that ends the run, in each of its alternatives."""
    return [(level[0], last) for level in levels[:-1] for last in levels[-1]]


def grown(small: Stage, big: Stage, steps: int, share: float, names: tuple[str, str]) -> Choice:
    """Growing from one stage to another after some steps."""
    how = "" if big.how == "preserve" else f", {big.how}"
    name = f"{names[0]} → {names[1]}{how} at {share:.2%}"
    return Choice(
        name, (dataclasses.replace(small, until=triggers.steps(steps)), big), steps, share
    )
