"""MLflow."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainkit._core import validation
from trainkit._core.run_files import Row
from trainkit.loggers.logger import Run, Value, need, numbers

RUN = "trainkit.run"  # the tag that a run is found by
MOST = 100  # parameters in one call
LONGEST = 6000  # letters of one


class MLflow:
    """A run of MLflow; a metric's name is `train/loss`, and words of events are tags.

    A run that goes on is one run there too: it is found by a tag, and gets those values that it
    lacks. A row waits for the server's answer.

    Args:
      experiment: its name; made if need be.
      tracking_uri: of the server; by default MLflow's own (`MLFLOW_TRACKING_URI`).
      run_name: by default the name of the run's folder.

    Raises:
      TypeError: an unknown option, or one that is no text.
      ModuleNotFoundError: mlflow is not installed.
    """

    @validation.named_options
    def __init__(
        self,
        experiment: str = "Default",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
    ):
        validation.text("experiment", experiment, "MLflow", "give its name")
        for option, value in (("tracking_uri", tracking_uri), ("run_name", run_name)):
            if value is not None:
                validation.text(option, value, "MLflow")
        need("mlflow", "MLflow", "mlflow")
        self.experiment, self.tracking_uri, self.run_name = experiment, tracking_uri, run_name
        self._client: Any = None

    def start(self, run: Run) -> None:
        """Begins the run, or finds it."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.tracking_uri)
        known = client.get_experiment_by_name(self.experiment)
        experiment = known.experiment_id if known else client.create_experiment(self.experiment)
        found = client.search_runs([experiment], filter_string=f"tags.`{RUN}` = '{run.id}'")
        name = self.run_name or (run.folder.name if run.folder else None)
        there = found[0] if found else client.create_run(
            experiment, run_name=name, tags={RUN: run.id}
        )  # fmt: skip
        self._client, self._run, self._asks = client, there.info.run_id, bool(found)
        self._steps: dict[str, set[int]] = {}
        client.update_run(self._run, status="RUNNING")
        self._describe(run.config, there.data.params)
        self._send(run.rows)

    def _describe(self, config: Mapping[str, Any], known: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        # What was said once cannot be changed in MLflow.
        named = {_name(name): str(value) for name, value in _flat(config).items()}
        new = [Param(n, v[:LONGEST]) for n, v in named.items() if n not in known]
        for at in range(0, len(new), MOST):
            self._client.log_batch(self._run, params=new[at : at + MOST])

    def log(self, step: int, values: Mapping[str, Value], kind: str) -> None:
        """Sends a row."""
        self._send([{"step": step, "kind": kind, **values}])

    def _send(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        for row in rows:
            step, kind = row["step"], row["kind"]
            rest = {name: row[name] for name in row if name not in ("step", "kind")}
            words = {n: v for n, v in rest.items() if isinstance(v, str)}
            self._client.log_batch(
                self._run,
                metrics=[
                    Metric(_name(name), value, now, step)
                    for name, value in numbers(rest, kind).items()
                    if self._lacks(_name(name), step)
                ],
                tags=[RunTag(_name(f"{kind}/{name}/{step}"), word) for name, word in words.items()],
            )

    def _lacks(self, name: str, step: int) -> bool:
        """Whether a run that goes on does not have this value yet."""
        if not self._asks:
            return True
        if name not in self._steps:
            history = self._client.get_metric_history(self._run, name)
            self._steps[name] = {metric.step for metric in history}
        return step not in self._steps[name]

    def close(self, stopped: str | None) -> None:
        """Ends the run: as failed, as killed where it was interrupted, or as finished."""
        if self._client is not None:
            interrupted = stopped is not None and stopped.startswith("interrupted")
            done = "KILLED" if interrupted else "FINISHED"
            self._client.set_terminated(self._run, "FAILED" if stopped is None else done)


def _name(name: str) -> str:
    """With the letters that MLflow takes.

    >>> _name("learning_rate/layers_(0|1)")
    'learning_rate/layers__0_1_'
    """
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested names with a dot between them.

    >>> _flat({"model": {"width": 3}, "seed": 0})
    {'model.width': 3, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
