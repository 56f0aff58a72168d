"""Taking up a run where its newest checkpoint that is whole says it was."""

from __future__ import annotations

import time
from typing import Any

from trainkit._core.versions import versions
from trainkit.loop.checkpoint import CheckpointError
from trainkit.loop.hooks import named
from trainkit.loop.record import Record
from trainkit.loop.saved import position as data_position
from trainkit.loop.session import Session


def resume(run: Session) -> None:
    """Puts a session where its checkpoints say the run was, or at the beginning."""
    if run.checkpoints is not None and run.checkpoints.steps:
        run.checkpoints.newest(lambda step: _take_up(run, step), run.progress.message)
    elif run.folder is not None and run.folder.has_saved:
        raise CheckpointError(
            f"{run.folder.path} holds a run that has saved checkpoints, but there is none left in "
            "its folder checkpoints: put them back, or throw the run away with overwrite=True."
        )
    else:
        run.state = run.in_use.place(run.state)
    run.began = time.perf_counter() - run.record.seconds


def _take_up(run: Session, step: int) -> None:
    assert run.checkpoints is not None
    info = run.checkpoints.info(step)
    for name, hook in named(run.hooks).items():
        remembers = name in info["hooks"] and hasattr(hook, "load")
        change = hook.load(info["hooks"][name]) if remembers else None
        if change is not None:
            run.apply(change)
    run.state, info = run.checkpoints.restore(run.in_use.place(run.state), step)
    run.record = Record.from_json(info["record"])
    best = run.record.best
    if best.step is not None:
        run.checkpoints.rate(best.step, best.value)
    stream = run.in_use.stream
    stream.restore(data_position.from_json(info["data"], like=stream.position))
    run.in_use.begin_at(run.record.epoch)
    run.log_position = info["log"]
    _say(run, step, info["_versions"])


def _say(run: Session, step: int, then: dict[str, Any]) -> None:
    if finished := run.why_stop():
        run.progress.message(
            f"This run is finished: {finished}. To train it once more, overwrite it or "
            "choose another output folder."
        )
    else:
        run.progress.message(f"Going on at step {step:,}, where this run stopped.")
    if then != (now := versions()):
        changed = [f"{k} {then.get(k)} → {now[k]}" for k in now if then.get(k) != now[k]]
        run.progress.message(
            f"Other versions than then ({', '.join(changed)}): the numbers may differ in "
            "their last digits from those of a run that never stopped."
        )
