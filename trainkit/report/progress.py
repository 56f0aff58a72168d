"""How a run goes: a bar in a terminal, else a line an evaluation."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
                progress.BarColumn(bar_width=None),  # what the others leave
                progress.TaskProgressColumn(),
                progress.TextColumn("{task.fields[numbers]}", style="dim"),
                progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                refresh_per_second=4,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0, numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def message(self, text: str, *, passing: bool = False) -> None:
        """Says something; what is `passing` stays only where there is no bar to show it."""
        if not self._enabled:
            return
        if self._bar is None:
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
                description=_fitted(_where(record, latest), width() - 56),
                completed=share,
                total=total,
                numbers=_fitted(_numbers(latest, record.flops), width() - 48),
            )
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            line = [*_where(record, latest), *_numbers(latest, record.flops)]
            self._say(_fitted(line, width()))

    def evaluated(self, record: Any, latest: Mapping[str, float], best: bool) -> None:
        """Says what an evaluation found."""
        found = ", ".join(
            f"{name} {_short(record.evaluation[name])}"
            for name in sorted(record.evaluation, key=lambda name: (name != "loss", name))
        )
        what = f"evaluation: {found}{' (best)' if best else ''}"
        self.message(_fitted([*_where(record, latest), (what, 0), *_speed(latest, 2)], width()))

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

    @contextlib.contextmanager
    def unwritten(self) -> Iterator[None]:
        """Says what could not be written inside it, and goes on."""
        try:
            yield
        except OSError as error:
            self.message(f"Not written: {error}.")

    def ended(self, result: Any, share: float = 1.0) -> None:
        """Says why it ended; `share` is what it used of its budget, 0 where there is none."""
        if self._bar is not None:
            with contextlib.suppress(KeyError):
                words = f"step {result.steps:,}"
                done = {"total": 1.0, "completed": share or 1.0}
                self._bar.update(self._task, description=words, numbers="", **done)
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


# A piece of a line, and its rank: where the line is too long, the pieces of the highest go.
Piece = tuple[str, int]


def _fitted(pieces: Sequence[Piece], limit: int) -> str:
    """The pieces as one line of at most so many letters; those of rank 0 stay.

    >>> _fitted([("step 8", 0), ("epoch 0.50", 2), ("loss 1.0", 1)], 20)
    'step 8 · loss 1.0'
    """
    line = ""
    for most in sorted({rank for _, rank in pieces}, reverse=True):
        line = " · ".join(text for text, rank in pieces if rank <= most)
        if len(line) <= limit:
            break
    return line


def _where(record: Any, latest: Mapping[str, float]) -> list[Piece]:
    found = [(f"stage {latest['stage']:.0f}", 1)] if "stage" in latest else []
    found.append((f"step {record.step:,}", 0))
    return [*found, (f"epoch {record.epoch:.2f}", 3)] if record.epoch else found


def _numbers(latest: Mapping[str, float], flops: float = 0.0) -> list[Piece]:
    ranks = {"loss": 0, "accuracy": 4}
    shown = [(f"{n} {_short(latest[n])}", rank) for n, rank in ranks.items() if n in latest]
    if flops and "stage" in latest:
        shown.append((units.flops(flops), 3))
    return [*shown, *_speed(latest, 2)]


def _speed(latest: Mapping[str, float], rank: int) -> list[Piece]:
    speed = latest.get("examples_per_second")
    return [(f"{speed:,.0f} examples/s", rank)] if speed else []


def _short(value: float) -> str:
    if not math.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}"
    return f"{value:.3g}"
