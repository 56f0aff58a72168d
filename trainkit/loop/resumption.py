"""Taking up a run where its newest checkpoint that is whole says it was."""

from __future__ import annotations

import time
from typing import Any

from trainkit._core.processes import alone, from_writer, together
from trainkit._core.versions import versions
from trainkit.data.loader import Place
from trainkit.loop.arguments.run_identity import (
    HYPERPARAMETERS,
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
        run.checkpoints.newest(
            lambda step: _take_up(run, step, fresh), run.progress.message, agreed=not alone()
        )
    elif run.folder is not None and from_writer(run.folder.has_saved):
        raise CheckpointError(
            f"{run.folder.path} holds a run that has saved checkpoints, but there is none left in "
            "its folder checkpoints: put them back, or throw the run away with overwrite=True."
        )
    else:
        run.state = run.in_use.place(run.state)
    run.began = time.perf_counter() - run.record.seconds


def _take_up(run: Session, step: int, fresh: TrainState) -> None:
    assert run.checkpoints is not None
    checkpoints = run.checkpoints
    info = together(lambda: checkpoints.info(step), DamagedError)
    _check_same_run(run, info)
    for name, hook in named(run.hooks).items():
        load = getattr(hook, "load", None)
        change = load(info["hooks"][name]) if load and name in info["hooks"] else None
        if change is not None:
            run.apply(change)
    run.state, info = run.checkpoints.restore(run.in_use.place(run.state), step)
    if run.resume == f"new {HYPERPARAMETERS}" and hasattr(fresh, "opt_state"):
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
    _say(run, step, info["_versions"])


def _check_same_run(run: Session, info: dict[str, Any]) -> None:
    same = info["_versions"] == versions()
    for part, now in run.identity.items():
        lines = other_run(part, info["identity"][part], now, same)
        if lines and run.resume != f"new {part}":
            raise CheckpointError(
                f"The run in {run.checkpoints and run.checkpoints.folder.parent} was begun with "
                f"other {part}:\n  " + "\n  ".join(lines) + "\nGive those of then, go on with "
                f'these by resume="new {part}", or choose another output folder.'
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
