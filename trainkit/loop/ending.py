"""What a session gives when it has stopped."""

from __future__ import annotations

from trainkit.data.loader import Loader
from trainkit.loop.record import FitResult
from trainkit.loop.session import Session


def ending(run: Session, stopped: str) -> FitResult:
    """The result of a run: its best state where that was asked for, or its last good one."""
    metrics = run.log.ended()
    stopped = run.not_finite or stopped  # of the metrics that have come just now
    if hasattr(run.step, "check"):
        run.step.check()  # the limit of `skip_nonfinite` may have been passed just now
    record, state = run.record, run.state
    if run.checkpoints is not None:
        run.checkpoints.wait()
        if run.folder is not None and run.checkpoints.steps:
            run.folder.saved()
    if run.restores_best and record.best.step not in (None, record.step):
        if run.checkpoints is None:
            assert run.best_state is not None
            state = run.best_state
        else:
            state, _ = run.checkpoints.restore(state, step=record.best.step)
    elif run.not_finite and run.checkpoints and run.checkpoints.steps:
        state, _ = run.checkpoints.restore(state)
    stream = run.in_use.stream
    loader = isinstance(run.data, Loader) and not run.data.once  # which begins anew
    if hasattr(run.data, "restore") and stream.position is not None and not loader:
        stream.restore(stream.position)  # what was read ahead is to be drawn again
    return FitResult(
        state=state,
        metrics=metrics,
        evaluation=record.evaluation,
        evaluated_at=record.evaluated_at,
        best=record.best,
        stopped=stopped,
        **record.used,
        folder=run.folder.path if run.folder else None,
    )


def outcome(run: Session) -> str:
    """How it ended, in a word that a program can read."""
    if run.not_finite:
        return "not finite"
    return "interrupted" if run.interrupts.wish else "finished"
