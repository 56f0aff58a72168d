"""One session of a run: from where the checkpoints say it is to where it stops."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from trainkit._core import processes
from trainkit._core.nonfinite import nonfinite_params
from trainkit._core.units import amount
from trainkit.loop.checkpoint import Checkpointer
from trainkit.loop.hooks import Change, Hook, Now, agreed, change_of, memories
from trainkit.loop.interrupts import Interrupts, Waited
from trainkit.loop.metrics_log import MetricsLog
from trainkit.loop.record import Record
from trainkit.loop.run_folder import RunFolder
from trainkit.loop.run_log import RunLog, fetch
from trainkit.loop.step_in_use import StepInUse, own
from trainkit.loop.stopping import Budget, EarlyStopping
from trainkit.loop.stream import saved_place, streamed
from trainkit.step.state import TrainState

PyTree = Any
Evaluate = Callable[[TrainState], Mapping[str, Any]]


@dataclasses.dataclass
class Session:
    """What `fit` is made of; its fields are the options of `fit`, checked.

    `until_stopped` is the loop, and reads from top to bottom; the methods under it are its parts.
    """

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
    stop_nonfinite: bool
    averages: bool | int
    resume: str
    folder: RunFolder | None = None
    checkpoints: Checkpointer | None = None
    interrupts: Interrupts = dataclasses.field(default_factory=Interrupts)
    progress: Any = None

    def __post_init__(self) -> None:
        self.record = Record()
        self.began, self.data_ended = time.perf_counter(), False
        self.log_position: Any = None
        self.identity: dict[str, dict[str, Any]] = {}
        self.resumption: dict[str, str] | None = None  # the event, where something is new
        self.best_state: TrainState | None = None
        self.bad_params: str | None = None
        self.log = RunLog(None, self.record)
        self.in_use = self.use()
        self.in_use.begin_at(self.record.epoch)

    # -- the loop ----------------------------------------------------------------------------

    def until_stopped(self) -> str:
        """Trains; returns why it stopped."""
        while True:
            self.note(seconds=self.interrupts.agree(time.perf_counter() - self.began))
            stopped = self.why_stop()
            if stopped and not self.interrupts.wish:  # which goes on, with the rows of others
                self.log.last()

            # 1. Evaluate. First, so that the numbers are those of the state that is saved next
            # and a checkpoint of step n knows all that there is to know about step n.
            self.evaluate_if_due(stopped)
            stopped = self.why_stop()

            # 2. Save. Before a batch is drawn, so that the place in the data is the next batch's
            # and a resumed run draws what the undisturbed one drew.
            self.save_if_due(stopped)

            # 3. Hooks. After saving, so that a run resumed at this step meets them once more
            # with the state that was saved; they may put another step, state or data in place.
            stopped = self.why_stop()
            if not stopped and (stopped := self.call_hooks()):
                self.log.last()
                # Saved first: a run that goes on from here after all, because the hook is gone,
                # has not seen an evaluation that the undisturbed one does not make.
                self.save_if_due(stopped)
                self.evaluate_if_due(stopped)
            if stopped:
                return stopped

            # 4. Draw the next batch: it was put on the device while the last step was running.
            try:
                with self.rescuing():
                    drawn = self.in_use.draw()
            except Waited:
                continue
            if drawn is None:
                self.data_ended = True
                self.note(epoch=self.in_use.epoch)
                continue
            batch, examples = drawn

            # 5. Step. It returns before the device has finished; nothing here waits for it.
            self.compile(batch)
            after = self.counted(examples)
            logged = after.crossed(self.log_every) or self.budget.spent(after.used) is not None
            with jax.profiler.StepTraceAnnotation("train", step_num=self.record.step):
                called = self.in_use.call(self.state, batch, self.log, norms=logged)
            (self.state, metrics, again), self.record = called, after
            self.progress.slow(after.step, again, self.in_use.waited(metrics))
            if self.log.stepped(after, metrics, self.log_every, time.perf_counter() - self.began):
                self.progress.update(after, self.budget, self.log.latest)

    def why_stop(self) -> str | None:
        if self.not_finite:
            return self.not_finite
        if self.interrupts.wish:
            return f"interrupted by {self.interrupts.wish}"
        if self.data_ended:
            return self.budget.spent(self.record.used) or "the data ended"
        stopping = self.early_stopping
        if stopping and self.record.best.waited >= stopping.patience:
            return f"no better {stopping.metric} in {self.record.best.waited} evaluations"
        return self.budget.spent(self.record.used)

    def evaluate_if_due(self, stopped: str | None) -> None:
        record = self.record
        # At the end too, except when somebody is waiting for the process to go away.
        due = record.crossed(self.eval_every) or (stopped and not self.interrupts.wish)
        if not (self.evaluate and due and record.step) or record.evaluated_at == record.step:
            return
        with self.paused(), self.rescuing():
            if self.not_finite:  # as the metrics say that were fetched just now
                return
            try:
                with self.interrupts.awaited():
                    metrics = fetch(self.evaluate(self.in_use.evaluated(self.state)), "evaluate")
            except Waited:
                return
            processes.same(metrics, "evaluate must give the same in every process.")
            best = record.best
            if self.early_stopping or self.best_metric in metrics:
                min_delta = self.early_stopping.min_delta if self.early_stopping else 0.0
                best = best.after(record.step, metrics, self.best_metric, self.best_mode, min_delta)
        flops = record.flops + getattr(self.evaluate, "flops", 0.0)
        self.note(evaluation=metrics, evaluated_at=record.step, best=best, flops=flops)
        self.log.write(self.record, "evaluation", metrics)
        self.progress.evaluated(self.record, self.log.latest, best.step == record.step)
        if self.improved and self.restores_best and self.checkpoints is None:
            # Placing copies into buffers of its own: the next step may be given these.
            self.best_state = self.in_use.place(self.state)

    @property
    def improved(self) -> bool:
        """Whether the best evaluation is of this very step."""
        return self.record.best.step == self.record.step

    def save_if_due(self, stopped: str | None) -> None:
        record = self.record
        due = record.crossed(self.checkpoint_every or self.eval_every)
        if self.checkpoints is None or not record.step or not (stopped or self.improved or due):
            return
        if self.checkpoints.latest == record.step:
            # Saved before it was evaluated, by a session that was ended in between.
            self.checkpoints.rate(record.step, record.best.value if self.improved else None)
            return
        with self.paused():
            for hook in self.hooks:
                if stopped and hasattr(hook, "settle"):
                    hook.settle()
            self.save()

    def save(self) -> None:
        assert self.checkpoints is not None
        if (wrong := nonfinite_params(self.state)) and self.stop_nonfinite:
            self.bad_params = f"{wrong} is not finite at step {self.record.step:,}"
            return
        self.note(train=self.log.latest, train_at=self.log.latest_at)
        info = {
            "record": self.record.to_json(),
            "data": saved_place(self.in_use.stream.position),
            "log": self.log.position,
            "identity": self.identity,
            "config": self.folder.config if self.folder else {},
            "hooks": memories(self.hooks),
        }
        score = self.record.best.value if self.improved else None
        earlier = self.checkpoints.latest
        self.checkpoints.save(self.record.step, self.state, info=info, score=score, good=not wrong)
        if self.folder is not None and earlier is not None:
            self.folder.saved()  # the one before was waited for

    @contextlib.contextmanager
    def rescuing(self):
        """Saves where the run is before an error in what the user gave ends it, if it is alone."""
        try:
            yield
        except Exception:
            # Whatever goes wrong here must not hide the error itself.
            with contextlib.suppress(Exception):
                saved = (0, self.checkpoints.latest) if self.checkpoints else ()
                if saved and processes.alone() and self.record.step not in saved:
                    self.log.flush()
                    self.save()
            raise

    def call_hooks(self) -> str | None:
        stop = None
        for hook in self.hooks:
            if (change := change_of(hook, Now.of(self))) is None:
                continue
            if change.flops:
                self.note(flops=self.record.flops + change.flops)
            if change.event is not None:
                self.log.flush()
                self.log.write(self.record, "event", change.event)
            self.apply(change)
            stop = stop or change.stop
        return agreed(self.hooks, stop)

    def apply(self, change: Change) -> None:
        self.evaluate = change.evaluate or self.evaluate
        position = self.in_use.stream.position
        if change.data is not None:
            self.data = streamed(change.data, self.budget, self.early_stopping, self.folder)
        if change.step is not None:
            self.step = own(change.step)
            self.interrupts.ask_again()
        self.state = self.state if change.state is None else change.state
        if change.step is not None or change.data is not None:
            self.in_use = self.use()
            # What was read ahead lies where the old step wanted it; new data has its own place.
            if change.data is None and position is not None:
                self.in_use.stream.restore(position)
            self.in_use.begin_at(self.record.epoch)
        if change.step is not None or change.state is not None:
            self.state = self.in_use.place(self.state)

    def note(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)

    def counted(self, examples: int) -> Record:
        """The record after one more call of the step."""
        return dataclasses.replace(
            self.record,
            before=self.record.step,
            step=self.record.step + self.in_use.steps_per_call,
            examples=self.record.examples + examples,
            flops=self.record.flops + self.in_use.flops_per_call,
            epoch=self.in_use.epoch,
        )

    # -- what is there when it begins ---------------------------------------------------------

    def open_log(self, log: MetricsLog | None) -> None:
        skips = getattr(getattr(self.step, "guard", None), "skip", False)
        self.log = RunLog(log, self.record, losses_may_fail=skips)

    def compile(self, batch: PyTree) -> None:
        if not self.in_use.compiled:
            self.progress.message("compiling the step", passing=True)
            self.in_use.compile(self.state, batch, self.log, self.record)
        if self.budget.flops is not None and not self.in_use.flops_per_call:
            raise ValueError(
                f"flops={amount('flops', self.budget.flops)} is a budget in FLOPs, but those of "
                "this step are not known: make it with make_train_step or jax.jit, or use another."
            )

    @property
    def not_finite(self) -> str | None:
        """What is not finite, where that ends a run."""
        return (self.bad_params or self.log.bad_loss) if self.stop_nonfinite else None

    def use(self) -> StepInUse:
        return StepInUse(self.step, self.data, self.prefetch, self.interrupts, self.averages)

    @property
    def restores_best(self) -> bool:
        return self.early_stopping is not None and self.early_stopping.restore_best

    @contextlib.contextmanager
    def paused(self):
        """Lets the steps under way end, and leaves the time of what follows out of the speed."""
        self.log.flush()
        jax.block_until_ready(self.state)
        begin = time.perf_counter()
        yield
        self.log.pause(time.perf_counter() - begin)
