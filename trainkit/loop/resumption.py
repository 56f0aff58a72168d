"""Taking up a run where its newest checkpoint that is whole says it was."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from trainkit._core.identity import differences
from trainkit._core.processes import alone, from_writer, together
from trainkit._core.versions import versions
from trainkit.data.loader import Place
from trainkit.loop.arguments.run_identity import (
    DATA,
    HYPERPARAMETERS,
    RESUME,
    can_go_on,
    other_run,
    run_identity,
    with_hyperparameters,
)
from trainkit.loop.checkpoint import CheckpointError
from trainkit.loop.hooks import named
from trainkit.loop.record import Record
from trainkit.loop.saved.step import DamagedError
from trainkit.loop.session import Session
from trainkit.loop.stream import place_of
from trainkit.step.state import TrainState


def resume(run: Session) -> None:
    """Puts a session where its checkpoints say the run was, or at the beginning."""
    fresh = run.state
    if run.folder is not None:
        run.identity = run_identity(run.step, run.state, run.data)
    if run.checkpoints is not None and from_writer(run.checkpoints.steps):
        search = _Search()
        run.checkpoints.newest(
            lambda step: _take_up(run, step, fresh, search),
            run.progress.message,
            agreed=not alone(),
        )
    elif run.folder is not None and from_writer(run.folder.has_saved):
        raise CheckpointError(
            f"{run.folder.path} holds a run that has saved checkpoints, but there is none left in "
            "its folder checkpoints: put them back, or throw the run away with overwrite=True."
        )
    else:
        run.state = run.in_use.place(run.state)
    run.began = time.perf_counter() - run.record.seconds


@dataclasses.dataclass
class _Search:
    """For a checkpoint that is whole, from the newest on.

    What the run is, the newest says that says anything. Those before may be of another one, from
    which it went on.

    Attributes:
      silent: the errors of those that say nothing.
      compared: whether one has said it.
    """

    silent: list[str] = dataclasses.field(default_factory=list)
    compared: bool = False


def _take_up(run: Session, step: int, fresh: TrainState, search: _Search) -> None:
    """Puts a session where this step was saved."""
    assert run.checkpoints is not None
    checkpoints = run.checkpoints
    try:
        info = together(lambda: checkpoints.info(step), DamagedError)
    except DamagedError as error:
        search.silent.append(f"{error}\n")
        raise
    if not search.compared:
        _check_same_run(run, info, "".join(search.silent))
        search.compared = True
    for name, hook in named(run.hooks).items():
        load = getattr(hook, "load", None)
        change = load(info["hooks"][name]) if load and name in info["hooks"] else None
        if change is not None:
            run.apply(change)
    run.state, info = run.checkpoints.restore(run.in_use.place(run.state), step)
    renewed = run.resume == f"new {HYPERPARAMETERS}" or HYPERPARAMETERS in _others(run, info)
    if renewed and hasattr(fresh, "opt_state"):
        opt_state = with_hyperparameters(run.state.opt_state, fresh.opt_state)
        changed = run.state.replace(opt_state=opt_state, rng=fresh.rng)
        run.state = run.in_use.place(changed)
    run.record = Record.from_json(info["record"])
    best = run.record.best
    if best.step is not None:
        run.checkpoints.rate(best.step, best.value)
    stream = run.in_use.stream
    stream.restore(place_of(info["data"], like=stream.position))
    run.in_use.begin_at(run.record.epoch)
    run.log_position = info["log"]
    run.resumption = _event(run, info)
    _say(run, step, info["_versions"])


def _event(run: Session, info: dict[str, Any]) -> dict[str, str] | None:
    """That a run goes on as another, and what is new in it."""
    config = differences(info["config"], run.folder.config) if run.folder else []
    lines = config + [line for part in _others(run, info).values() for line in part]
    if not lines:
        return None
    # Over damage, as the same run, from before its hyper-parameters were changed.
    reason = f"new {HYPERPARAMETERS}" if run.resume == RESUME[0] else run.resume
    return {"event": "resumed", "reason": reason, "changes": "; ".join(lines)}


def _others(run: Session, info: dict[str, Any]) -> dict[str, list[str]]:
    """The parts of what a run is in which it was another when this was saved, and the lines."""
    same = info["_versions"] == versions()
    parts = {
        part: other_run(part, info["identity"][part], now, same)
        for part, now in run.identity.items()
    }
    return {part: lines for part, lines in parts.items() if lines}


def _check_same_run(run: Session, info: dict[str, Any], damage: str) -> None:
    others = _others(run, info)
    if not others or list(others) == [run.resume.removeprefix("new ")]:
        return
    then = info["identity"]
    if not can_go_on(then.get(HYPERPARAMETERS, {}), run.identity.get(HYPERPARAMETERS, {})):
        advice = "There is no state for these in its checkpoints: give those of then"
    elif len(others) > 1:
        advice = (
            f"Only one of the two can be new: give the {DATA} of then and "
            f'resume="new {HYPERPARAMETERS}", the {HYPERPARAMETERS} of then and '
            f'resume="new {DATA}"'
        )
    else:
        advice = f'Give those of then, go on with these by resume="new {next(iter(others))}"'
    shown = "\n  ".join(line for lines in others.values() for line in lines)
    raise CheckpointError(
        f"{damage}The run in {run.checkpoints and run.checkpoints.folder.parent} was begun with "
        f"other {' and '.join(others)}:\n  {shown}\n{advice}, or choose another output "
        "folder."
    )


def _say(run: Session, step: int, then: dict[str, Any]) -> None:
    if finished := run.why_stop():
        run.progress.message(
            f"This run is finished: {finished}. To train it once more, overwrite it or "
            "choose another output folder."
        )
    else:
        run.progress.message(f"Going on at step {step:,}, where this run stopped.")
    place = run.in_use.stream.position
    if isinstance(place, Place) and place.batches and place.state is None and not finished:
        run.progress.message(
            f"The data keep no place of their own: {place.batches:,} batches were drawn again and "
            "left out. That is exact where they come in the same order each time."
        )
    if then != (now := versions()):
        changed = [f"{k} {then.get(k)} → {now[k]}" for k in now if then.get(k) != now[k]]
        run.progress.message(
            f"Other versions than then ({', '.join(changed)}): the numbers may differ in "
            "their last digits from those of a run that never stopped."
        )
