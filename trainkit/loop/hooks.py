"""What takes part in the loop from outside: a hook sees the run between two steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from trainkit._core.processes import gathered
from trainkit.step.state import TrainState


@dataclasses.dataclass(frozen=True)
class Now:
    """What a hook sees: the run between two steps.

    Attributes:
      steps: optimizer steps taken.
      epochs: passes over the data, with their fraction where the data knows its size.
      examples, flops, seconds: used so far, over all sessions of a resumed run.
      state: the state after `steps` steps.
      evaluation: the metrics of the last evaluation, `{}` before the first.
      evaluated: whether that evaluation is of this very step.
    """

    steps: int
    epochs: float
    examples: int
    flops: float
    seconds: float
    state: TrainState
    evaluation: Mapping[str, float]
    evaluated: bool


@dataclasses.dataclass(frozen=True)
class Change:
    """What a hook may change; `None` leaves it.

    Attributes:
      state, step, evaluate, data: put in the place of those that the loop has.
      stop: a reason to end the run.
      event: a flat mapping to write into the metrics log, to be marked in the report.
      flops: spent by the hook itself, or on an evaluation, to be counted with the run's.
    """

    state: TrainState | None = None
    step: Callable[..., Any] | None = None
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None
    data: Any = None
    stop: str | None = None
    event: Mapping[str, Any] | None = None
    flops: float = 0.0


class Hook(Protocol):
    """`hook(now) -> Change | None`, called between two steps, after evaluating and saving.

    A hook with a memory gives it as `hook.save()`, something that JSON can hold; it goes by the
    name of the hook's class. The hook takes it back in `hook.load(saved) -> Change | None` when a
    run is resumed, before the state is restored; that change brings the step and a state of the
    shapes that the checkpoint has. It is called once more, with an older memory, where a checkpoint
    turns out to be damaged. One with work under way may have `hook.settle()`: it is called before
    the last checkpoint.

    In several processes each of them calls its hooks, with the same numbers. When one says `stop`,
    all stop at that step; for that they ask each other at every step, unless every hook has an
    attribute `alike` that is true, by which it says that it decides alike in all processes.
    """

    def __call__(self, now: Now) -> Change | None: ...


def agreed(hooks: Sequence[Hook], stop: str | None) -> str | None:
    """Why the run is to end, as some hook says in some process."""
    if all(getattr(hook, "alike", False) for hook in hooks):
        return stop
    return next((reason for reason in gathered(stop) if reason), None)


def named(hooks: Sequence[Hook]) -> dict[str, Hook]:
    """The hooks by class, numbered where one has several: what their memory goes by."""
    found: dict[str, Hook] = {}
    for hook in hooks:
        name, number = type(hook).__name__, 2
        while name in found:
            name, number = f"{type(hook).__name__} {number}", number + 1
        found[name] = hook
    return found
