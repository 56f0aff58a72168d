"""`fit`: the loop around a step, with everything around it opened and closed in order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from trainkit._core import validation
from trainkit._core.identity import lasting
from trainkit._core.processes import is_writer
from trainkit._core.run_files import CHECKPOINTS
from trainkit.loggers.logger import Logger
from trainkit.loop.arguments.alike import check_alike
from trainkit.loop.arguments.run_identity import RESUME
from trainkit.loop.arguments.validation import (
    check_averages,
    check_first_batch,
    check_loggers,
    check_options,
    check_parts,
    check_paths,
    check_run,
)
from trainkit.loop.checkpoint import Checkpointer
from trainkit.loop.ending import ending, outcome
from trainkit.loop.hooks import Hook
from trainkit.loop.metrics_log import MetricsLog
from trainkit.loop.record import FitResult
from trainkit.loop.resumption import resume
from trainkit.loop.run_folder import RunFolder
from trainkit.loop.saved.retention import KEPT, Retention
from trainkit.loop.session import Evaluate, Session
from trainkit.loop.step_in_use import own
from trainkit.loop.stopping import Budget, EarlyStopping
from trainkit.loop.stream import streamed
from trainkit.loop.summary import write_summary
from trainkit.report.html import write_report
from trainkit.report.progress import Progress
from trainkit.step.state import TrainState

PyTree = Any


@validation.named_options
def fit(
    step: Callable[[TrainState, PyTree], tuple[TrainState, Mapping[str, jax.Array]]],
    state: TrainState,
    data: Any,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    seconds: float | None = None,
    flops: float | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    best_metric: str = "loss",
    best_mode: str = "min",
    hooks: Sequence[Hook] = (),
    loggers: Sequence[Logger] = (),
    out: str | os.PathLike | RunFolder | None = None,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: str = "same run",
    checkpoint_every: int | None = None,
    keep: int = 2,
    keep_best: int = 1,
    keep_every: int | None = None,
    keep_seconds: float | None = None,
    log_every: int = 50,
    prefetch: int = 2,
    stop_nonfinite: bool = True,
    averages: bool | int = False,
    progress: bool = True,
    report: bool = True,
) -> FitResult:
    """Trains until a budget is spent, a metric stops improving, or a signal comes.

    On Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 (a scheduler's warning) the step under way is finished
    and saved. After Ctrl-C the result is returned; any other signal is then passed on to the
    handler that was there before, so that a script without one ends as that signal ends it, and
    its scheduler does not take it for done.

    In several processes (`trainkit.distributed`) every one calls it alike. A signal to one of them
    stops all at one step; process 0 writes the folder, and all write the arrays.

    Args:
      step: `state, metrics = step(state, batch)`, from `make_train_step` or one's own. Its
        `place`, `place_batch` and `compile` are used where it has them.
      state: the state to begin with; it is copied. The states of the run reuse one memory, so that
        a hook which keeps one copies it (`step.place`), or the step has `donate=False`.
      data: what gives batches: a `Sampler`, a list, a loader of Grain, PyTorch or Hugging Face, a
        generator. What can be iterated over again is, until a budget is spent. A run goes on by the
        data's own position or state, or else by counting the batches.
      steps, epochs, seconds, flops: the budget; the run ends at the first that is used up. At
        least one is needed, unless there is `early_stopping` or the data ends; without any, a list
        or loader is gone over once. `epochs` counts from where the data stands; a `Sampler` is left
        after the last batch that was trained on.
      evaluate: `state -> {name: scalar}`, run every `eval_every` steps and at the end. What it
        costs is counted where it has an attribute `flops`.
      eval_every: in steps; by default once an epoch where the data knows its size.
      early_stopping: when to end for want of improvement.
      best_metric, best_mode: what makes an evaluation the best where there is no early stopping;
        without a metric of that name none is.
      hooks: called between two steps; see `trainkit.loop.hooks.Hook`.
      loggers: where rows of metrics go beside the folder; see `trainkit.loggers`.
      out: the run's folder: metrics, checkpoints, summary and report. A folder that holds this
        very run makes it go on where it stopped. `None` writes nothing.
      config: the run's options, for the report and to tell one run from another.
      overwrite: whether a run that is in `out` is thrown away.
      resume: whether the run in `out` is to go on with all that it was begun with, or with "new
        hyperparameters" or "new data", which a difference is otherwise refused for. The rest of
        the state (moments, counts, the place in the data) is kept; `config` may then differ.
      checkpoint_every: in steps; by default at every evaluation. The best evaluation and the end
        are saved whatever this is.
      keep, keep_best: how many of the latest checkpoints, and of those with the best evaluation,
        are kept.
      keep_every, keep_seconds: of every so many steps, and of every so many seconds, the first
        checkpoint is kept for good. The last good one is never deleted.
      log_every: in steps, how often training metrics are written down.
      prefetch: how many batches wait on the device.
      stop_nonfinite: whether the run ends when a logged loss (of a step that does not leave such
        out) or a parameter that is to be saved is not finite. Such a state is never saved, and
        the last good one is given back where there is an output folder.
      averages: whether `evaluate` sees the averages that `trainkit.transforms.average_params`
        keeps, in the place of the parameters. The model's running statistics (BatchNorm's) are
        then computed anew for them, on the next 64 batches or on as many as an integer says; see
        `trainkit.refresh_statistics`. Training goes on from the parameters themselves.
      progress: whether to show how it goes: a bar in a terminal, else a line an evaluation.
      report: whether to write `report.html` into `out`.

    Raises:
      TypeError, ValueError: no budget; an option of another kind or out of range; a state, data,
        labels or weights that do not fit the step; data without a position with `out`. All before
        anything is compiled or written.
      OutputError: `out` cannot be written or holds something else.

    >>> import jax.numpy as jnp, numpy as np, optax, trainkit
    >>> from trainkit.data import Sampler
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), len(batch))
    >>> tx = optax.sgd(0.25)
    >>> step = trainkit.make_train_step(loss_fn, tx)
    >>> state = trainkit.TrainState.create({"mean": jnp.zeros(())}, tx)
    >>> data = Sampler(np.full(8, 3.0, np.float32), batch_size=4)
    >>> result = fit(step, state, data, epochs=5, progress=False)
    >>> result.stopped, result.steps, round(float(result.state.params["mean"]), 3)
    ('epochs=5 reached', 10, 2.997)
    """
    # Over 60 lines: half of them are the options, by name, here and in Session.
    budget = Budget(steps=steps, epochs=epochs, seconds=seconds, flops=flops)
    check_options(
        eval_every=eval_every, checkpoint_every=checkpoint_every, log_every=log_every,
        prefetch=prefetch, best_metric=best_metric, best_mode=best_mode, overwrite=overwrite,
        stop_nonfinite=stop_nonfinite, progress=progress, report=report, resume=resume,
        config=config,
    )  # fmt: skip
    retention = Retention(keep, keep_best, best_mode, keep_every, keep_seconds)
    check_parts(step, data, evaluate, hooks, early_stopping)
    check_loggers(loggers)
    step = own(step)
    data = streamed(data, budget, early_stopping, out)
    check_run(step, data, budget, early_stopping, eval_every, out)
    check_paths(loggers, out)
    check_averages(averages, step, state, data)
    run = Session(
        step=step,
        state=state,
        data=data,
        evaluate=evaluate,
        eval_every=eval_every or getattr(data, "steps_per_epoch", None),
        checkpoint_every=checkpoint_every,
        budget=budget,
        early_stopping=early_stopping,
        best_metric=early_stopping.metric if early_stopping else best_metric,
        best_mode=early_stopping.mode if early_stopping else best_mode,
        hooks=tuple(hooks),
        log_every=log_every,
        prefetch=prefetch,
        stop_nonfinite=stop_nonfinite,
        averages=averages,
        resume=resume,
    )
    check_alike(run, retention, config, out)
    if out is not None and not isinstance(out, RunFolder):
        RunFolder.check(out, config, overwrite=overwrite, same=resume == RESUME[0])
    check_first_batch(step, state, data)
    if out is not None and not isinstance(out, RunFolder):
        out = RunFolder.claim(out, config, overwrite=overwrite, same=resume == RESUME[0])
    said = out.config if out is not None else lasting(config or {}, "config") if loggers else {}
    return _run(run, out, retention, (loggers, said), progress, report)


def _run(
    run: Session,
    folder: RunFolder | None,
    retention: Retention,
    logged: tuple[Sequence[Logger], Mapping[str, Any]],
    progress: bool,
    report: bool,
) -> FitResult:
    with contextlib.ExitStack() as stack:
        if folder is not None:
            run.folder = stack.enter_context(folder)
            kept = {name: getattr(retention, name) for name in KEPT}
            run.checkpoints = stack.enter_context(
                Checkpointer(folder.path / CHECKPOINTS, mode=run.best_mode, **kept)
            )
            run.checkpoints.sweep()
        stack.enter_context(run.interrupts)
        for hook in run.hooks:
            stack.callback(getattr(hook, "close", lambda: None))
        run.progress = stack.enter_context(Progress(progress and is_writer()))
        resume(run)
        log = None
        loggers, config = logged
        if is_writer() and (folder is not None or loggers):
            log = MetricsLog(
                None if folder is None else folder.path,
                position=run.log_position,
                loggers=loggers,
                config=config,
                step=run.record.step,
            )
            stack.enter_context(log)
        run.open_log(log)
        if run.resumption is not None:
            run.log.write(run.record, "event", run.resumption)
        _note(run, "running")
        result = ending(run, run.until_stopped())
        _note(run, outcome(run), result.stopped, result.metrics)
        if run.folder is not None and is_writer() and report:
            with run.progress.unwritten():
                result = dataclasses.replace(result, report=write_report(run.folder.path))
        if log is not None:
            log.close(result.stopped)
        run.progress.ended(result, run.budget.share(run.record.used))
    # Only now: everything is written and closed.
    run.interrupts.pass_on()
    return result


def _note(run: Session, how: str, stopped: str | None = None, metrics: Any = None) -> None:
    """Writes down how the run is; that can be made again, and is no reason to lose it."""
    if run.folder is not None and is_writer():
        with run.progress.unwritten():
            write_summary(run.folder, run.record, run.budget, how, stopped, metrics)
