"""The loop around a step: evaluate, save, draw the next batch, step."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from trainkit.cost import step_flops
from trainkit.data.prefetch import Prefetch
from trainkit.data.stacked import Stacked
from trainkit.hooks import Change, Hook, Now
from trainkit.interrupts import Interrupts
from trainkit.metrics import MetricsLog
from trainkit.record import Record
from trainkit.report.progress import Progress
from trainkit.run_folder import RunFolder
from trainkit.run_log import RunLog, fetch
from trainkit.state import TrainState
from trainkit.stopping import Best, Budget, EarlyStopping
from trainkit.versions import versions

PyTree = Any
Evaluate = Callable[[TrainState], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
      state: the last state, or the best one where early stopping restores it.
      metrics: of the last logged training step.
      evaluation: of the last evaluation; `{}` where there was none.
      best: the best evaluation: its step, value and metrics.
      stopped: why the run ended, in words.
      steps, epochs, examples, flops, seconds: used, over all sessions of a resumed run.
      folder: where its files are; `None` without an output folder.
      report: the report's file, if one was written.
    """

    state: TrainState
    metrics: Mapping[str, float]
    evaluation: Mapping[str, float]
    best: Best
    stopped: str
    steps: int
    epochs: float
    examples: int
    flops: float
    seconds: float
    folder: Path | None = None
    report: Path | None = None


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
    out: str | os.PathLike | RunFolder | None = None,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    checkpoint_every: int | None = None,
    keep: int = 2,
    log_every: int = 50,
    prefetch: int = 2,
    progress: bool = True,
    report: bool = True,
) -> FitResult:
    """Trains until a budget is spent, a metric stops improving, or Ctrl-C.

    Args:
      step: `state, metrics = step(state, batch)`, from `make_train_step` or one's own. Its
        `place`, `place_batch` and `compile` are used where it has them.
      state: the state to begin with.
      data: an iterator of batches. A `Sampler` (or anything with `position` and `restore`) can
        be resumed exactly, which an output folder needs.
      steps, epochs, seconds, flops: the budget; the run ends at the first that is used up. At
        least one is needed, unless `data` ends or there is `early_stopping`.
      evaluate: `state -> {name: scalar}`, run every `eval_every` steps and at the end.
      eval_every: in steps; by default once an epoch where the data knows its size.
      early_stopping: when to end for want of improvement.
      best_metric, best_mode: what makes an evaluation the best where there is no early stopping;
        without a metric of that name none is.
      hooks: called between two steps; see `trainkit.hooks.Hook`.
      out: the run's folder: metrics, checkpoints, summary and report. A folder that holds this
        very run makes it go on where it stopped. `None` writes nothing.
      config: the run's options, for the report and to tell one run from another.
      overwrite: whether a run that is in `out` is thrown away.
      checkpoint_every: in steps; by default at every evaluation. The best evaluation and the end
        are saved whatever this is.
      keep: how many of the latest checkpoints to keep; the best one is kept beside them.
      log_every: in steps, how often training metrics are written down.
      prefetch: how many batches wait on the device.
      progress: whether to show how it goes: a bar in a terminal, else a line an evaluation.
      report: whether to write `report.html` into `out`.

    Raises:
      ValueError: no budget; an option out of range; data without a position with `out`.
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
    budget = Budget(steps, epochs, seconds, flops)
    _check(budget, data, step, early_stopping, out, eval_every, checkpoint_every, log_every)
    run = _Run(
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
    )
    if out is not None and not isinstance(out, RunFolder):
        RunFolder.check(out, config, overwrite=overwrite)
    _check_first_batch(step, data)
    with contextlib.ExitStack() as stack:
        if out is not None:
            claimed = (
                out
                if isinstance(out, RunFolder)
                else RunFolder.claim(out, config, overwrite=overwrite)
            )
            run.folder = stack.enter_context(claimed)
            run.open_checkpoints(stack, keep)
        run.interrupts = stack.enter_context(Interrupts())
        run.progress = stack.enter_context(Progress(progress))
        run.resume()
        run.open_log(stack)
        result = run.until_stopped()
        if run.folder is not None:
            from trainkit.report.summary import write_summary

            write_summary(run.folder, result)
            if report:
                from trainkit.report.html import write_report

                result = dataclasses.replace(result, report=write_report(run.folder.path))
        run.progress.ended(result)
    return result


@dataclasses.dataclass
class _Run:
    """One session of a run, from resuming to its end."""

    step: Any
    state: TrainState
    data: Any
    evaluate: Evaluate | None
    eval_every: int | None
    checkpoint_every: int | None
    budget: Budget
    early_stopping: EarlyStopping | None
    best_metric: str
    best_mode: str
    hooks: tuple[Hook, ...]
    log_every: int
    prefetch: int
    folder: RunFolder | None = None
    checkpoints: Any = None
    interrupts: Any = None
    progress: Any = None

    def __post_init__(self) -> None:
        self.record = Record()
        self.began = time.perf_counter()
        self.data_ended = False
        self.log_position: Any = None
        self.best_state: TrainState | None = None
        self.new_step()

    # -- the loop ----------------------------------------------------------------------------

    def until_stopped(self) -> FitResult:
        while True:
            self.record = dataclasses.replace(self.record, seconds=time.perf_counter() - self.began)
            stopped = self.why_stop()

            # 1. Evaluate. First, so that the numbers are those of the state that is saved next
            # and a checkpoint of step n knows all that there is to know about step n.
            improved = self.evaluate_if_due(stopped)
            stopped = stopped or self.why_stop()

            # 2. Save. Before a batch is drawn, so that the place in the data is the next batch's
            # and a resumed run draws what the undisturbed one drew.
            self.save_if_due(stopped, improved)

            # 3. Hooks. After saving, so that a run resumed at this step meets them once more
            # with the state that was saved; they may put another step, state or data in place.
            stopped = stopped or self.call_hooks()
            if stopped:
                return self.result(stopped)

            # 4. Draw the next batch: it was put on the device while the last step was running.
            drawn = next(self.stream, None)
            if drawn is None:
                self.data_ended = True
                continue
            batch, examples = drawn

            # 5. Step. It returns before the device has finished; nothing here waits for it.
            self.compile_first(batch)
            with self.first_call():
                self.state, metrics = self.step(self.state, batch)
            self.count(examples)
            if self.record.crossed(self.log_every):
                self.log.later(self.record, metrics)
                self.progress.update(self.record, self.budget, self.log.latest)

    def why_stop(self) -> str | None:
        if self.interrupts.received:
            return f"interrupted by {self.interrupts.received}"
        if self.data_ended:
            return "the data ended"
        stopping = self.early_stopping
        if stopping and self.record.best.waited >= stopping.patience:
            return f"no better {stopping.metric} in {self.record.best.waited} evaluations"
        return self.budget.spent(**self.record.used)

    def evaluate_if_due(self, stopped: str | None) -> bool:
        record = self.record
        # At the end too, except when somebody is waiting for the process to go away.
        due = record.crossed(self.eval_every) or (stopped and not self.interrupts.received)
        if not (self.evaluate and due and record.step) or record.evaluated_at == record.step:
            return False
        with self.paused():
            metrics = fetch(self.evaluate(self.state))
            best = record.best
            if self.early_stopping or self.best_metric in metrics:
                min_delta = self.early_stopping.min_delta if self.early_stopping else 0.0
                best = best.after(record.step, metrics, self.best_metric, self.best_mode, min_delta)
            self.record = dataclasses.replace(
                record, evaluation=metrics, evaluated_at=record.step, best=best
            )
            self.log.write(self.record, "evaluation", metrics)
        improved = best.step == record.step
        self.progress.evaluated(self.record, self.log.latest, improved)
        return improved

    def save_if_due(self, stopped: str | None, improved: bool) -> None:
        record = self.record
        if not record.step:
            return
        if self.checkpoints is None:
            if improved and self.restores_best:
                # Placing copies into buffers of its own: the next step may be given these.
                self.best_state = self.place(self.state)
            return
        due = record.crossed(self.checkpoint_every or self.eval_every)
        if not (stopped or improved or due) or self.checkpoints.latest == record.step:
            return
        with self.paused():
            self.record = record = dataclasses.replace(record, train=self.log.latest)
            info = {
                "record": record.to_json(),
                "data": list(self.stream.position),
                "log": self.log.position,
                "config": self.folder.config if self.folder else {},
                "hooks": [hook.save() if hasattr(hook, "save") else None for hook in self.hooks],
            }
            score = record.best.value if improved else None
            self.checkpoints.save(record.step, self.state, info=info, score=score)

    def call_hooks(self) -> str | None:
        stop = None
        for hook in self.hooks:
            change = hook(
                Now(
                    **self.record.used,
                    examples=self.record.examples,
                    state=self.state,
                    evaluation=self.record.evaluation,
                    evaluated=self.record.evaluated_at == self.record.step,
                )
            )
            if change is None:
                continue
            if change.flops:
                self.record = dataclasses.replace(
                    self.record, flops=self.record.flops + change.flops
                )
            if change.event is not None:
                self.log.flush()
                self.log.write(self.record, "event", change.event)
            self.apply(change)
            stop = stop or change.stop
        return stop

    def apply(self, change: Change) -> None:
        self.evaluate = change.evaluate or self.evaluate
        position = self.stream.position
        if change.data is not None:
            self.data = change.data
        if change.step is not None:
            self.step = change.step
        if change.state is not None:
            self.state = change.state
        if change.step is not None or change.data is not None:
            self.new_step()
            # What was read ahead lies where the old step wanted it; new data has its own place.
            if change.data is None and position is not None:
                self.stream.restore(position)
        if change.step is not None or change.state is not None:
            self.state = self.place(self.state)

    def count(self, examples: int) -> None:
        record = self.record
        self.record = dataclasses.replace(
            record,
            before=record.step,
            step=record.step + self.steps_per_call,
            examples=record.examples + examples,
            flops=record.flops + self.flops_per_call,
            epoch=self.epoch(),
        )

    # -- what is there when it begins ---------------------------------------------------------

    def new_step(self) -> None:
        """Makes the stream that feeds the step in use."""
        self.steps_per_call = getattr(self.step, "steps_per_call", 1)
        self.compiled, self.called, self.flops_per_call = False, False, 0.0
        place = getattr(self.step, "place_batch", lambda batch: batch)
        stream = Stacked(self.data, self.steps_per_call)
        self.stream = Prefetch(stream, lambda drawn: (place(drawn[0]), drawn[1]), self.prefetch)

    def place(self, state: TrainState) -> TrainState:
        return self.step.place(state) if hasattr(self.step, "place") else state

    def open_checkpoints(self, stack: contextlib.ExitStack, keep: int) -> None:
        from trainkit.checkpoint import Checkpointer

        assert self.folder is not None
        self.checkpoints = stack.enter_context(
            Checkpointer(self.folder.path / "checkpoints", keep=keep, mode=self.best_mode)
        )

    def resume(self) -> None:
        """Goes to where the checkpoints say the run was."""
        latest = self.checkpoints.latest if self.checkpoints else None
        if latest is not None:
            for hook, saved in zip(self.hooks, self.checkpoints.info()["hooks"], strict=False):
                change = hook.load(saved) if hasattr(hook, "load") else None
                if change is not None:
                    self.apply(change)
        self.state = self.place(self.state)
        if latest is not None:
            self.state, info = self.checkpoints.restore(self.state)
            self.record = Record.from_json(info["record"])
            self.stream.restore(info["data"])
            self.log_position = info["log"]
            if finished := self.why_stop():
                self.progress.message(
                    f"This run is finished: {finished}. To train it once more, overwrite it or "
                    "choose another output folder."
                )
            else:
                self.progress.message(f"Going on at step {latest:,}, where this run stopped.")
            if (then := info["_versions"]) != (now := versions()):
                changed = [f"{k} {then.get(k)} → {now[k]}" for k in now if then.get(k) != now[k]]
                self.progress.message(
                    f"Other versions than then ({', '.join(changed)}): the numbers may differ in "
                    "their last digits from those of a run that never stopped."
                )
        self.began = time.perf_counter() - self.record.seconds

    def open_log(self, stack: contextlib.ExitStack) -> None:
        log = None
        if self.folder is not None:
            log = stack.enter_context(MetricsLog(self.folder.path, position=self.log_position))
        self.log = RunLog(log, self.record)

    def compile_first(self, batch: PyTree) -> None:
        if self.compiled:
            return
        self.compiled = True
        begin = time.perf_counter()
        if hasattr(self.step, "compile"):
            self.progress.message("compiling the step", passing=True)
            self.step.compile(self.state, batch)
            self.log.compile_seconds = time.perf_counter() - begin
        self.flops_per_call = step_flops(self.step, self.state, batch)
        if self.budget.flops is not None and not self.flops_per_call:
            raise ValueError(
                f"flops={self.budget.flops:g} is a budget in FLOPs, but those of this step are "
                "not known: make it with make_train_step or jax.jit, or use another budget."
            )
        self.log.start_or_pause(self.record, time.perf_counter() - begin)

    @contextlib.contextmanager
    def first_call(self):
        """Takes the first call for compiling, of a step that cannot be compiled before it."""
        if self.called:
            yield
            return
        self.called = True
        begin = time.perf_counter()
        yield
        if not hasattr(self.step, "compile"):
            self.log.compile_seconds = time.perf_counter() - begin
            self.log.pause(self.log.compile_seconds)

    # -- small things -------------------------------------------------------------------------

    @property
    def restores_best(self) -> bool:
        return self.early_stopping is not None and self.early_stopping.restore_best

    def epoch(self) -> float:
        position = self.stream.position
        if position is None or not hasattr(position, "epoch"):
            return 0.0
        return position.epoch + position.offset / self.data.size

    @contextlib.contextmanager
    def paused(self):
        """Fetches what is under way, and leaves the time it takes out of the speed."""
        self.log.flush()
        begin = time.perf_counter()
        yield
        self.log.pause(time.perf_counter() - begin)

    def result(self, stopped: str) -> FitResult:
        self.log.flush()
        if hasattr(self.step, "check"):
            self.step.check()  # the limit of `skip_nonfinite` may have been passed just now
        record, state = self.record, self.state
        if self.checkpoints is not None:
            self.checkpoints.wait()
        if self.restores_best and record.best.step not in (None, record.step):
            if self.checkpoints is None:
                assert self.best_state is not None
                state = self.best_state
            else:
                state, _ = self.checkpoints.restore(state, step=record.best.step)
        return FitResult(
            state=state,
            metrics=self.log.latest,
            evaluation=record.evaluation,
            best=record.best,
            stopped=stopped,
            examples=record.examples,
            **record.used,
            folder=self.folder.path if self.folder else None,
        )


def _check(budget, data, step, early_stopping, out, eval_every, checkpoint_every, log_every):
    options = {
        "eval_every": eval_every,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
    }
    for name, every in options.items():
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"{name}={every!r} must be a whole number of steps, 1 or more.")
    endless = hasattr(data, "position")
    if budget == Budget() and early_stopping is None and endless:
        raise ValueError(
            "This run would never end: give it steps=, epochs=, seconds=, flops= or "
            "early_stopping=."
        )
    if budget.epochs is not None and not endless:
        raise ValueError(
            f"epochs={budget.epochs} needs data that counts them, such as trainkit.data.Sampler; "
            f"data is a {type(data).__name__}. Use steps= instead."
        )
    per_call = getattr(step, "steps_per_call", 1)
    if budget.steps is not None and budget.steps % per_call:
        raise ValueError(
            f"steps={budget.steps} is not a multiple of the step's steps_per_call={per_call}."
        )
    if out is not None and not (endless and hasattr(data, "restore")):
        raise ValueError(
            f"data is a {type(data).__name__}, which has no `position` and `restore`: a run with "
            "an output folder could not be resumed. Use trainkit.data.Sampler, or out=None."
        )


def _check_first_batch(step: Any, data: Any) -> None:
    """Lets the step refuse a batch before anything is written, where the data can be peeked at."""
    if hasattr(data, "draw") and hasattr(step, "place_batch"):
        again = Stacked(itertools.repeat(data.draw(data.position)[0]), step.steps_per_call)
        step.place_batch(next(again)[0])
