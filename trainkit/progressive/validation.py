"""Checks of stages, triggers and budgets before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from trainkit._core.paths import named_leaves
from trainkit._core.units import amount
from trainkit.loop.stopping import Budget
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.stages.stage import Alternatives, Data, Stage, StageError
from trainkit.progressive.stages.triggers import Trigger

# The name of a count in triggers -> its name in budgets.
_FIELDS = {
    "step": "steps",
    "epoch": "epochs",
    "examples": "examples",
    "flops": "flops",
    "seconds": "seconds",
}
# Counts that are proportional to steps. FLOPs are not: they include evaluations and probes.
_BY_STEPS = ("steps", "epochs", "examples")


def check_end(budget: Budget, target: Trigger | None, last: Stage) -> None:
    """Raises ValueError if nothing would end the run."""
    if budget == Budget() and target is None and last.until is None:
        raise ValueError(
            "This run would never end: give it steps=, epochs=, examples=, flops= or seconds=, a "
            "target=, or an until= of the last stage."
        )


def check_data(levels: Sequence[Sequence[Stage]]) -> None:
    """Raises ValueError if a stage has its own data, but all stages share one sampler."""
    for number, level in enumerate(levels):
        for stage in level:
            if stage.data != Data():
                raise ValueError(
                    f"Stage {number} asks for {stage.data}, but `data` is one sampler for all "
                    "stages: give a function Data -> Sampler, such as trainkit.data.staged(…)."
                )


def check_prepared(
    levels: Sequence[Sequence[PreparedStage]],
    budget: Budget,
    target: Trigger | None,
    decay: float,
    eval_every: int | None,
) -> None:
    """Raises ValueError for triggers that can never fire, and for budgets below one step."""
    first = levels[0][0]
    rates = [[_rates(prepared) for prepared in level] for level in levels]
    metrics = first.evaluation.metrics
    check_triggers(
        [tuple(prepared.stage for prepared in level) for level in levels],
        metrics=metrics,
        budget=budget.limits,
        one_step={**rates[0][0], "flops": first.counted_flops()},
        decay=decay,
        rates=rates,
        eval_every=eval_every or getattr(first.data, "steps_per_epoch", None),
    )
    missing = sorted(target.metrics - metrics) if target is not None else []
    if missing:
        raise ValueError(
            f"The target {str(target)!r} waits for {', '.join(map(repr, missing))}, which the "
            f"evaluation does not compute: {', '.join(sorted(metrics))}."
        )


def _rates(prepared: PreparedStage) -> dict[str, float]:
    """Budget name -> the amount that one step uses, for counts proportional to steps."""
    size = getattr(prepared.data, "size", None)
    epochs = {"epochs": prepared.per_batch / size} if size else {}
    return {"steps": 1.0, "examples": float(prepared.per_batch), **epochs}


def check_pair(small: PreparedStage, big: PreparedStage) -> None:
    """Raises StageError if a stage shrinks unintentionally, or its data ignore its `Data`."""
    shapes_of = lambda prepared: {
        name: tuple(x.shape) for name, x in named_leaves(prepared.like.params).items()
    }
    check_sizes(small.stage, big.stage, shapes_of(small), shapes_of(big), big.number)
    shapes = [jax.tree.map(lambda x: x.shape, each.batch_shapes) for each in (small, big)]
    if shapes[0] != shapes[1]:
        return
    for name in ("sequence_length", "resolution", "batch_size"):
        before, after = (getattr(each.stage.data, name) for each in (small, big))
        if None not in (before, after) and before != after:
            raise StageError(
                f"Stage {big.number} asks for {name}={after} after {before}, but its batches have "
                f"the same shapes: `data` ignores {name}."
            )


def check_triggers(
    levels: Sequence[Alternatives],
    *,
    metrics: Collection[str],
    budget: Mapping[str, float],
    one_step: Mapping[str, float],
    decay: float = 0.0,
    rates: Sequence[Sequence[Mapping[str, float]]] | None = None,
    eval_every: int | None = None,
) -> None:
    """Checks that every stage can end, and that at least one step fits into the budget.

    Args:
      levels: the result of `normalised`.
      metrics: the names that the evaluation computes.
      budget: count -> limit of the run, for the limits that are set.
      one_step: count -> the amount that one step of the first stage uses.
      decay: the fraction of the budget, at its end, in which nothing grows.
      rates: for each alternative of each level, count -> the amount that one step uses. With them,
        a trigger in one unit can be compared with a budget in another.
      eval_every: the number of steps between evaluations.

    Raises:
      StageError: a stage cannot end or begin; names the stage, the trigger and the fix.
    """
    for name, limit in budget.items():
        if limit < one_step.get(name, 0.0):
            raise StageError(
                f"The budget of {amount(name, limit)} {name} is below one step, which takes "
                f"{amount(name, one_step[name])}."
            )
    needed = {"steps": 0.0}  # count -> the least amount before a stage can begin
    for number, level in enumerate(levels):
        for trigger in (stage.until for stage in level if stage.until is not None):
            _check_trigger(number, trigger, metrics, one_step)
        if number < len(levels) - 1:
            known = rates[number] if rates else [{}] * len(level)
            minima = [
                _minimum_counts(stage.until, rate, needed["steps"], eval_every)
                for stage, rate in zip(level, known, strict=True)
            ]
            for field in {*needed, *(name for counts in minima for name in counts)}:
                least = min(counts.get(field, 0.0) for counts in minima)
                needed[field] = needed.get(field, 0.0) + least
            _check_reachable(number, level, needed, budget, decay)


def _check_trigger(
    number: int, trigger: Trigger, metrics: Collection[str], one_step: Mapping[str, float]
) -> None:
    missing = sorted(trigger.metrics - set(metrics))
    if missing:
        raise StageError(
            f"Stage {number} waits for {str(trigger)!r}, but nothing computes "
            f"{', '.join(map(repr, missing))}, so it would never end; the evaluation "
            f"computes {', '.join(sorted(metrics)) or 'nothing'}."
        )
    for name, count in trigger.counts.items():
        field = _FIELDS.get(name, name)
        if count < one_step.get(field, 0.0) and field in ("flops", "examples"):
            raise StageError(
                f"Stage {number} ends after {count:g} {field}, which is below one step "
                f"({one_step[field]:g})."
            )


def _minimum_counts(
    trigger: Trigger | None, rate: Mapping[str, float], begun: float, eval_every: int | None
) -> dict[str, float]:
    """The least amount of each count that a stage uses, if it begins at step `begun`."""
    counts = dict(trigger.counts) if trigger else {}
    evaluations = counts.pop("evaluations", 0)
    least = {_FIELDS[name]: float(count) for name, count in counts.items()}
    steps = [
        math.ceil(round(least[name] / rate[name], 6))
        for name in _BY_STEPS
        if name in least and name in rate
    ]
    if evaluations and eval_every:
        # Evaluations are at multiples of `eval_every` in steps of the run, not of the stage.
        steps.append(int((begun // eval_every + evaluations) * eval_every - begun))
    if steps and rate:
        for name, each in rate.items():
            least[name] = max(least.get(name, 0.0), max(steps) * each)
    return least


def _check_reachable(
    number: int,
    level: Alternatives,
    needed: Mapping[str, float],
    budget: Mapping[str, float],
    decay: float,
) -> None:
    for field, count in needed.items():
        limit = budget.get(field)
        if limit is None or count == 0 or count < limit * (1 - decay):
            continue
        until = " or ".join(str(stage.until) for stage in level)
        begins = (
            f"Stage {number} ends after {amount(field, count)} {field} of the run at the earliest "
            f"(until {until}), so stage {number + 1} would never come: "
        )
        raise StageError(
            begins
            + (
                f"of the budget of {amount(field, limit)} nothing grows in the last "
                f"{amount(field, limit * decay)}, in which "
                f"the learning rate falls (decay={decay:g})."
                if decay
                else f"the whole run may use {amount(field, limit)}."
            )
        )


def check_sizes(
    before: Stage,
    after: Stage,
    shapes_before: Mapping[str, Any],
    shapes_after: Mapping[str, Any],
    number: int,
) -> None:
    """Checks that a stage without `shrink=True` is not smaller than the one before.

    Args:
      before, after: the two stages.
      shapes_before, shapes_after: leaf name -> shape, for their parameters.
      number: the number of the later stage, for the message.

    Raises:
      StageError: names the leaf, or the size of the data, that shrinks.
    """
    if after.shrink:
        return
    smaller = after.data.shrinks(before.data)
    if smaller is None:
        total = [sum(map(math.prod, s.values())) for s in (shapes_before, shapes_after)]
        if total[1] < total[0]:
            smaller = f"the model from {total[0]:,} to {total[1]:,} parameters"
        for name, old in shapes_before.items():
            new = shapes_after.get(name)
            if new is None or len(new) != len(old):
                continue
            axes = [axis for axis in range(len(old)) if new[axis] < old[axis]]
            # With new layers, a leaf name may mean another layer: compare only equal structures.
            if axes and shapes_after.keys() == shapes_before.keys():
                smaller = f"axis {axes[0]} of {name} from {old} to {new}"
    if smaller is not None:
        raise StageError(
            f"Stage {number} shrinks {smaller}. If this is intended, use Stage(…, shrink=True)."
        )
