"""What takes part in the loop from outside: a hook sees the run between two steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from trainkit._core import validation
from trainkit._core.processes import gathered
from trainkit._core.run_files import ROW
from trainkit._core.validation import steps
from trainkit.loop.saved.position import to_json
from trainkit.step.state import TrainState


@dataclasses.dataclass(frozen=True)
class Now:
    """What a hook sees: the run between two steps.

    Attributes:
      steps: optimizer steps taken.
      epochs: passes over the data, with their fraction where the data knows its size.
      examples, flops, seconds: used so far, over all sessions of a resumed run.
      state: the state after `steps` steps.
      metrics: the training metrics that were logged last, `{}` before the first. They are fetched
        when the next row is due, or before an evaluation or a checkpoint.
      metrics_at: the step that they are of.
      evaluation: the metrics of the last evaluation, `{}` before the first.
      evaluated: whether that evaluation is of this very step.
    """

    steps: int
    epochs: float
    examples: int
    flops: float
    seconds: float
    state: TrainState
    metrics: Mapping[str, float]
    metrics_at: int | None
    evaluation: Mapping[str, float]
    evaluated: bool

    @classmethod
    def of(cls, run: Any) -> Now:
        """The present of a session."""
        return cls(
            **run.record.used,
            state=run.state,
            metrics=run.log.latest,
            metrics_at=run.log.latest_at,
            evaluation=run.record.evaluation,
            evaluated=run.record.evaluated_at == run.record.step,
        )


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

    def __post_init__(self) -> None:
        of = "Change"
        if self.step is not None:
            validation.function("step", self.step, "(state, batch) -> (state, metrics)", takes=2)
        if self.evaluate is not None:
            validation.function("evaluate", self.evaluate, "state -> {name: number}", takes=1)
        if self.data is not None and not hasattr(self.data, "__next__"):
            validation.listed("data", self.data, "[batch]", of)
        if self.stop is not None:
            validation.text("stop", self.stop, of, hint="it says why the run ends")
        validation.number("flops", self.flops, of, least=0)
        if self.event is not None:
            validation.mapping("event", self.event, "{'event': 'unfrozen', 'layers': 3}", of)
            steps.row_names(self.event, "event", ROW)
            for name, value in self.event.items():
                if not isinstance(value, str | bool) and validation.concrete(value) is None:
                    raise TypeError(
                        f"Change: event[{name!r}] must be a number or a string, not {value!r}."
                    )


class Hook(Protocol):
    """`hook(now) -> Change | None`, called between two steps, after evaluating and saving.

    A hook with a memory gives it as `hook.save()`, something that JSON can hold; it goes by the
    name of the hook's class. The hook takes it back in `hook.load(saved) -> Change | None` when a
    run is resumed, before the state is restored; that change brings the step and a state of the
    shapes that the checkpoint has. It is called once more, with an older memory, where a checkpoint
    turns out to be damaged. One with work under way may have `hook.settle()`: it is called before
    the last checkpoint. One that opened something may have `hook.close()`: it is called when the
    run ends, however it ends.

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


def change_of(hook: Hook, now: Now) -> Change | None:
    """What a hook changes; anything else that it may return is refused."""
    change = hook(now)
    if change is not None and not isinstance(change, Change):
        name = getattr(hook, "__name__", type(hook).__name__)
        raise TypeError(
            f"the hook {name} must return None or a trainkit.Change, not {change!r:.100}."
        )
    return change


def memories(hooks: Sequence[Hook]) -> dict[str, Any]:
    """What the hooks remember, by name.

    Raises:
      TypeError: JSON would give it back as something else.
    """
    found = {name: hook.save() for name, hook in named(hooks).items() if hasattr(hook, "save")}
    for name, memory in found.items():
        to_json(memory, f"{name}.save()")
    return found
