"""Runs of `fit`, each with its own options and its own folder, one after the other."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit._core import validation
from trainkit._core.identity import digest, lasting
from trainkit._core.processes import is_writer
from trainkit._core.run_files import REPORT, SUMMARY, read_json, write_whole
from trainkit.loop.hooks import Hook
from trainkit.report.comparison import ranked, table_rows
from trainkit.report.html import report_html
from trainkit.report.outcome import FINISHED, INTERRUPTED, NOT_FINITE, last_numbers, state_of
from trainkit.report.run_data import RunData, read_run
from trainkit.report.tables import text_table
from trainkit.sweep.pruning import PRUNED, StopBelowMedian


@dataclasses.dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
      options: its own.
      folder: its folder.
      value: the metric at its last evaluation; `None` without one.
      stopped: why it ended, in words.
    """

    options: Mapping[str, Any]
    folder: Path
    value: float | None
    stopped: str

    @property
    def pruned(self) -> bool:
        """Whether it was ended early."""
        return self.stopped.startswith(PRUNED)


@dataclasses.dataclass(frozen=True)
class Runs:
    """The result of `sweep_runs`; `print` shows it as a table.

    Attributes:
      runs: the best first; those that were pruned after those that were not.
      report: the page that compares them.
      table: a line a run.
    """

    runs: Sequence[SweptRun]
    report: Path
    table: str

    @property
    def best(self) -> SweptRun:
        """The best of those that were not pruned."""
        return self.runs[0]

    def __str__(self) -> str:
        return self.table


def sweep_runs(
    run: Callable[[dict[str, Any], Path, list[Hook]], Any],
    options: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    out: str | os.PathLike,
    *,
    metric: str = "loss",
    mode: str = "min",
    prune: bool = False,
    least: int = 3,
    after: int = 0,
) -> Runs:
    """Trains once for each combination of options, compares the runs, and goes on where it stopped.

    Args:
      run: `run(options, folder, hooks)` calls `fit` with `out=folder`, `hooks=hooks` and
        `config=options`, and evaluates. What it returns is not used: results are read from the
        folder.
      options: name -> values, of which every combination is a run; or a list, of the options of
        each run.
      out: the folder of the sweep. A run that is finished there is not trained again; one that was
        interrupted goes on.
      metric, mode: what the runs are compared by, of their last evaluation; whether "min" or "max"
        is better.
      prune: whether a run ends at an evaluation that is worse than the median of the others at its
        step, see `StopBelowMedian`.
      least, after: of `StopBelowMedian`.

    Returns:
      The runs, the best first, and the page `report.html` in `out`.

    >>> import tempfile, jax.numpy as jnp, numpy as np, trainkit, trainkit.transforms as tt
    >>> from trainkit.data import Sampler
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss(((batch - params) ** 2).sum(), len(batch))
    >>> def run(options, folder, hooks):
    ...     tx = tt.sgd(**options)
    ...     step = trainkit.make_train_step(loss_fn, tx)
    ...     state = trainkit.TrainState.create(jnp.zeros(()), tx)
    ...     away = lambda state: {"loss": (state.params - 3.0) ** 2}
    ...     data = Sampler(np.full(8, 3.0, np.float32), batch_size=4)
    ...     return trainkit.fit(step, state, data, steps=4, evaluate=away, out=folder, hooks=hooks,
    ...                         config=options, progress=False, report=False)
    >>> found = sweep_runs(run, {"learning_rate": [0.01, 0.1]}, tempfile.mkdtemp())
    >>> found.best.options, [round(run.value, 3) for run in found.runs]
    ({'learning_rate': 0.1}, [1.51, 7.657])

    Raises:
      TypeError, ValueError: no options, one run twice, or values that are not the same in another
        process (give names, and look up what they mean in `run`); no evaluation has the metric.
      KeyboardInterrupt: a run was interrupted; the same call goes on there.
    """
    validation.function("run", run, "(options, folder, hooks)", takes=3)
    validation.choice("mode", mode, ("min", "max"))
    validation.path("out", out)
    points = combinations(options)
    out = Path(out).expanduser()
    folders = [out / name for name in names_of(points)]
    for point, folder in zip(points, folders, strict=True):
        if _ended(folder):
            continue
        others = [other for other in folders if other != folder]
        pruning = StopBelowMedian(others, metric, mode=mode, least=least, after=after)
        run(dict(point), folder, [pruning] if prune else [])
        if read_json(folder / SUMMARY).get("outcome") == INTERRUPTED:
            raise KeyboardInterrupt(f"{folder} was interrupted; the same call goes on there")
    return _compared(points, folders, out, metric, mode)


def combinations(
    options: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The options of each run.

    >>> combinations({"rate": [0.1, 0.2], "seed": [0]})
    [{'rate': 0.1, 'seed': 0}, {'rate': 0.2, 'seed': 0}]
    """
    if isinstance(options, Mapping):
        for name, values in options.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ValueError(f"options[{name!r}] must be a list of values, not {values!r}.")
        points = [
            dict(zip(options, values, strict=True))
            for values in itertools.product(*options.values())
        ]
    else:
        points = [dict(point) for point in options]
    if not points or not points[0]:
        raise ValueError('options must name some values: {"learning_rate": [1e-3, 1e-2]}.')
    return points


def names_of(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run, of all its options: other runs beside it do not change it.

    >>> names_of([{"rate": 0.1, "seed": 0}, {"rate": 0.2, "seed": 0}])
    ['rate=0.1,seed=0', 'rate=0.2,seed=0']
    """
    found = []
    for number, point in enumerate(points):
        plain = lasting(point, f"options[{number}]")
        words = ",".join(f"{name}={value}" for name, value in plain.items())
        clean = re.sub(r"[^\w.,=+-]", "_", words)
        if clean != words or len(words) > 80:
            clean = f"{clean[:60]}-{digest(json.dumps(plain))[:8]}"
        found.append(clean)
    if twice := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"options has a run twice, {sorted(twice)[0]}; give each other values.")
    return found


def _ended(folder: Path) -> bool:
    return read_json(folder / SUMMARY).get("outcome") in (FINISHED, NOT_FINITE)


def _compared(
    points: Sequence[dict[str, Any]], folders: Sequence[Path], out: Path, metric: str, mode: str
) -> Runs:
    by_name = {}
    for point, folder in zip(points, folders, strict=True):
        found = read_run(folder)
        # What the sweep varies is what is compared, whatever else the run's own options are.
        data = dataclasses.replace(found, config=lasting(point, "options"))
        by_name[data.name] = data, SweptRun(point, folder, _value(data, metric), _why(data))
    if not any(swept.value is not None for _, swept in by_name.values()):
        names = {name for data, _ in by_name.values() for name in data.metrics("evaluation")}
        known = ", ".join(sorted(names)) or "none: give fit evaluate="
        raise ValueError(f"no run has evaluated the metric {metric!r}; there are: {known}.")
    order = ranked([data for data, _ in by_name.values()], metric, mode)
    order = sorted(order, key=lambda data: by_name[data.name][1].pruned)
    page = out / REPORT
    if is_writer():
        title = out.resolve().name
        write_whole(page, report_html([data for data, _ in by_name.values()], title=title))
    rows = table_rows([data for data, _ in by_name.values()], metric, mode)
    for row in rows:
        row["state"] = _why(by_name[row.pop("run")][0])
    return Runs([by_name[data.name][1] for data in order], page, text_table(rows))


def _value(run: RunData, metric: str) -> float | None:
    kind, numbers = last_numbers(run)
    return numbers.get(metric) if kind == "validation" else None


def _why(run: RunData) -> str:
    return str(run.summary.get("stopped") or state_of(run))
