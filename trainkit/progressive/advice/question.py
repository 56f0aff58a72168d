"""What is asked: the choices to compare, the budgets of their short runs, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from trainkit._core.units import si
from trainkit.progressive.advice.choices import Choice, grown, growths_of
from trainkit.progressive.advice.probes import Prober, cost_of_rungs, rungs_of
from trainkit.progressive.stages.stage import Alternatives, Stage

# Growths are tried at these shares of the largest short run: at all others they would have fewer
# points to go by, and later ones none.
GROW_AT = (0.125, 0.5)
# Steps that every size has in its shortest run, and at least as many as it warms up.
LEAST_STEPS = 10


class Question(NamedTuple):
    """The choices and the budgets of their short runs.

    Attributes:
      choices: every size alone, then every growth.
      rungs: FLOPs of the short runs, ascending.
    """

    choices: list[Choice]
    rungs: list[float]

    def to_json(self, **more: Any) -> dict[str, Any]:
        """JSON values that identify it."""
        names = [f"{one.name}, {one.steps} steps" for one in self.choices]
        return {"choices": names, "rungs": self.rungs, **more}


def question_of(
    prober: Prober,
    levels: Sequence[Alternatives],
    sizes: Sequence[Stage],
    *,
    flops: float,
    share: float,
    seeds: int,
) -> Question:
    """The choices, and as long runs of each as the share of the budget allows.

    Raises:
      ValueError: the share of the budget is below the least that tells something.
    """
    pairs = growths_of(levels)
    prepared = [prober.prepared(stage) for stage in sizes]
    starts = {id(small): prober.prepared(small) for small, _ in pairs}
    growing = [(small, big, at) for small, big in pairs for at in GROW_AT]
    runs = [*prepared, *(prober.prepared(big, 1) for _, big, _ in growing)]
    # An evaluation after each short run, and one before each growth.
    evaluated = sum(len(rungs_of(1.0)) * one.evaluation.flops for one in runs)
    evaluated += sum(starts[id(small)].evaluation.flops for small, _, _ in growing)
    each = len(runs) * cost_of_rungs(prober.decay)
    top = (share * flops / seeds - evaluated) / each
    rungs = rungs_of(top)
    dearest = max(one.flops_per_step for one in [*runs, *starts.values()])
    steps = max(LEAST_STEPS, prober.recipe.warmup)
    if rungs[0] < steps * dearest:
        least = (steps * dearest / rungs_of(1.0)[0] * each + evaluated) * seeds / share
        raise ValueError(
            f"The budget of flops={si(flops)} is too small for advice: {len(runs)} choices with "
            f"{seeds} seed{'s' * (seeds > 1)} need short runs of at least {steps} steps, which "
            f"are a share of {share:g} of {si(least)}. Give flops={least:.3g} or more "
            f"({least / flops:.2g} times as many), a larger share=, or fewer seeds= or stages; or "
            "run the choices themselves, which are short."
        )
    named = lambda stage, number=0: prober.prepared(stage, number).name
    choices = [Choice(one.name, (stage,)) for one, stage in zip(prepared, sizes, strict=True)]
    for small, big, at in growing:
        first = starts[id(small)]
        count = max(1, round(at * top / first.flops_per_step))
        part = count * first.flops_per_step / flops
        choices.append(grown(small, big, count, part, (first.name, named(big, 1))))
    return Question(choices, rungs)
