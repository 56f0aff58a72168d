"""How a run goes: a bar in a terminal, else a line an evaluation."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from trainkit._core import units

# Without a terminal and without evaluations, a sign of life this often.
QUIET_SECONDS = 30.0


class Progress:
    """Shows a run on standard output; where that is a file or a pipe, in few plain lines.

    Args:
      enabled: show nothing where it is false.
      terminal: whether to draw a bar; by default where standard output is a terminal, or a notebook
        that has ipywidgets.
    """

    def __init__(self, enabled: bool = True, terminal: bool | None = None):
        self._enabled = enabled
        drawn = sys.stdout.isatty() or _in_notebook()
        self._terminal = drawn if terminal is None else terminal
        self._bar: Any = None
        self._task: Any = None
        self._spoke = time.monotonic()
        self._recompiled, self._waited = 0, False

    def __enter__(self) -> Progress:
        if self._enabled and self._terminal:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("[bold]{task.description}"),
                progress.BarColumn(bar_width=24),
                progress.TaskProgressColumn(),
                progress.TextColumn("{task.fields[numbers]}", style="dim"),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                refresh_per_second=4,
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0, numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def message(self, text: str, *, passing: bool = False) -> None:
        """Says something; what is `passing` only in the bar."""
        if not self._enabled:
            return
        if self._bar is None:
            if not passing:
                self._say(text)
        elif passing:
            self._bar.update(self._task, description=text)
        else:
            self._bar.console.print(text, highlight=False)

    def update(self, record: Any, budget: Any, latest: Mapping[str, float]) -> None:
        """Moves the bar; `latest` are the training metrics that have arrived."""
        if not self._enabled:
            return
        if self._bar is not None:
            share = budget.share(record.used)
            # A run that ends for want of improvement has no share to show.
            total = None if share == 0 else 1.0
            self._bar.update(
                self._task,
                description=_where(record, latest),
                completed=share,
                total=total,
                numbers=_numbers(latest, record.flops),
            )
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            self._say(f"{_where(record, latest)} · {_numbers(latest, record.flops)}")

    def evaluated(self, record: Any, latest: Mapping[str, float], best: bool) -> None:
        """Says what an evaluation found."""
        found = ", ".join(
            f"{name} {_short(record.evaluation[name])}"
            for name in sorted(record.evaluation, key=lambda name: (name != "loss", name))
        )
        rate = latest.get("examples_per_second")
        speed = f" · {rate:,.0f} examples/s" if rate else ""
        mark = " (best)" if best else ""
        self.message(f"{_where(record, latest)} · evaluation: {found}{mark}{speed}")

    def slow(self, step: int, recompiled: str | None, waited: float | None) -> None:
        """Says what makes a run slow: compiling again (three times), waiting for data (once)."""
        if recompiled is not None and self._recompiled < 3:
            self._recompiled += 1
            self.message(f"Step {step:,} was {recompiled}.")
        if waited is not None and not self._waited:
            self._waited = True
            self.message(
                f"At step {step:,} the device waits for data {waited:.0%} of the time: read "
                "batches in threads or processes, or do less for each on the host."
            )

    def ended(self, result: Any) -> None:
        """Says why it ended."""
        if self._bar is not None:
            with contextlib.suppress(KeyError):
                self._bar.update(self._task, total=1.0, completed=1.0, numbers="")
        self.message(f"Ended after {result.steps:,} steps: {result.stopped}.")
        if result.stopped.startswith("interrupted") and result.folder is not None:
            self.message("The same command goes on from here.")

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        print(text, flush=True)


def width() -> int:
    """Columns of the terminal; no limit where a line goes to a file or a pipe."""
    return shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else sys.maxsize


def _in_notebook() -> bool:
    kernel = sys.modules.get("ipykernel.zmqshell")
    shell = kernel and kernel.ZMQInteractiveShell.initialized()
    return bool(shell) and importlib.util.find_spec("ipywidgets") is not None


def _where(record: Any, latest: Mapping[str, float]) -> str:
    stage = f"stage {latest['stage']:.0f} · " if "stage" in latest else ""
    epoch = f" · epoch {record.epoch:.2f}" if record.epoch else ""
    return f"{stage}step {record.step:,}{epoch}"


def _numbers(latest: Mapping[str, float], flops: float = 0.0) -> str:
    shown = [f"{name} {_short(latest[name])}" for name in ("loss", "accuracy") if name in latest]
    if flops and "stage" in latest:
        shown.append(units.flops(flops))
    if "examples_per_second" in latest:
        shown.append(f"{latest['examples_per_second']:,.0f} examples/s")
    return " · ".join(shown)


def _short(value: float) -> str:
    if not math.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}"
    return f"{value:.3g}"
