"""Loggers: every row once, whatever happens, and none of them costs a run."""

import csv
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
import pytest

import trainkit
from tests.loop.test_metrics_log import tensorboard_scalars
from trainkit import loggers
from trainkit._core.run_files import ROW, read_metrics
from trainkit.data import Sampler
from trainkit.loop.metrics_log import MetricsLog

ROOT = Path(__file__).parents[2]


def problem():
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), batch.shape[0])

    tx = optax.sgd(0.1)
    step = trainkit.make_train_step(loss_fn, tx)
    state = trainkit.TrainState.create({"mean": np.zeros((), np.float32)}, tx)
    return step, state, Sampler(np.arange(8, dtype=np.float32), 4)


class Recorder:
    """A logger of one's own."""

    def __init__(self):
        self.calls, self.rows = [], []

    def start(self, run):
        self.calls.append("start")
        self.run = run

    def log(self, step, values, kind):
        self.rows.append({"step": step, "kind": kind, **values})

    def close(self, stopped):
        self.calls.append(stopped)


def fit(**options):
    options = {"steps": 4, "log_every": 2, "progress": False, "report": False} | options
    return trainkit.fit(*problem(), **options)


def test_a_logger_of_ones_own_gets_what_the_file_has(tmp_path):
    own, config = Recorder(), {"width": 3}
    options = {"evaluate": lambda state: {"bias": 0.5, "done": True, "count": 7}, "eval_every": 4}
    event = lambda now: trainkit.Change(event={"event": "a word"}) if now.steps == 2 else None
    fit(out=tmp_path, config=config, loggers=[own], hooks=[event], **options)
    assert own.rows == read_metrics(tmp_path)
    assert [(row["step"], row["kind"]) for row in own.rows] == [
        (2, "train"), (2, "event"), (4, "train"), (4, "evaluation"),
    ]  # fmt: skip
    assert own.calls == ["start", "steps=4 reached"]
    assert (own.run.folder, own.run.config, own.run.step) == (tmp_path, config, 0)


def test_a_logger_needs_no_folder(capsys):
    own = Recorder()
    fit(loggers=[own, loggers.Terminal("loss")], config={"a": 1})
    assert [row["step"] for row in own.rows] == [2, 4]
    assert (own.run.folder, own.run.config) == (None, {"a": 1})
    loss = own.rows[0]["loss"]
    assert capsys.readouterr().out.splitlines()[0] == f"step 2 · train · loss {loss:.4g}"


def test_a_run_that_goes_on_tells_what_was_logged_and_logs_the_rest(tmp_path):
    first, second = Recorder(), Recorder()
    fit(out=tmp_path, loggers=[first])
    fit(out=tmp_path, loggers=[second], steps=8)
    assert list(second.run.rows) == first.rows
    assert second.run.step == 4
    assert second.run.id == first.run.id
    assert first.rows + second.rows == read_metrics(tmp_path)
    fit(out=tmp_path, loggers=[second], overwrite=True)
    assert second.run.id != first.run.id


def test_of_several_processes_the_first_alone_logs(monkeypatch):
    import trainkit.loop.fit

    own = Recorder()
    monkeypatch.setattr(trainkit.loop.fit, "is_writer", lambda: False)
    assert fit(loggers=[own]).metrics["loss"] > 0
    assert own.calls == []


def test_an_error_ends_a_logger_as_such():
    own = Recorder()

    def broken(now):
        raise RuntimeError("of the user")

    with pytest.raises(RuntimeError, match="of the user"):
        fit(loggers=[own], hooks=[broken])
    assert own.calls == ["start", None]


class Broken(Recorder):
    def __init__(self, where):
        super().__init__()
        self.where = where

    def start(self, run):
        if self.where == "start":
            raise ConnectionError("no network")
        super().start(run)

    def log(self, step, values, kind):
        if self.where == "log" and step == 4:
            raise ConnectionError("no network")
        super().log(step, values, kind)

    def close(self, stopped):
        if self.where == "close":
            raise ConnectionError("no network")
        super().close(stopped)


@pytest.mark.parametrize("where", ["log", "close"])
def test_a_logger_that_fails_costs_no_run_and_no_row_of_others(tmp_path, where):
    own, other = Broken(where), Recorder()
    with pytest.warns(match="Broken ends here: ConnectionError: no network"):
        result = fit(out=tmp_path, steps=8, loggers=[own, other])
    assert result.steps == 8
    assert other.rows == read_metrics(tmp_path)
    assert [row["step"] for row in own.rows] == ([2] if where == "log" else [2, 4, 6, 8])


def test_a_logger_that_cannot_begin_ends_the_run_before_it_begins(tmp_path):
    other = Recorder()
    with pytest.raises(ConnectionError, match="no network"):
        fit(out=tmp_path, loggers=[other, Broken("start")])
    assert other.calls == ["start", None]
    assert other.rows == []


def killed(folder, made):
    """Rows 1 to 6; killed at 5, after the checkpoint of step 3 and an event at it."""
    row = lambda step, kind="train": {"step": step, "kind": kind, "loss": 1.0 / step}
    first = MetricsLog(folder / "run", tensorboard=False, loggers=made())
    for step in (1, 2, 3):
        first.write(row(step))
    place = first.position
    for number in (row(3, "event"), row(4), row(5)):
        first.write(number | {"extra": 1})
    with MetricsLog(
        folder / "run", position=place, tensorboard=False, loggers=made(), step=3
    ) as again:
        for number in (row(3, "event"), row(4), row(5) | {"more": 2}, row(6)):
            again.write(number)
    first.close()
    return read_metrics(folder / "run")


def test_what_a_kill_left_is_cut_back_in_every_file(tmp_path):
    made = lambda: [loggers.JSONL(tmp_path / "a" / "rows.jsonl"), loggers.CSV(tmp_path / "b.csv")]
    rows = killed(tmp_path, made)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5, 6]
    assert read_metrics(tmp_path / "a" / "rows.jsonl") == rows
    with (tmp_path / "b.csv").open() as file:
        table = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert table == [{k: str(v) for k, v in row.items()} for row in rows]


def test_tensorboard_is_told_from_where_on_to_forget(tmp_path):
    from tensorboardX.proto.event_pb2 import SessionLog

    killed(tmp_path, lambda: [loggers.TensorBoard(tmp_path / "tensorboard")])
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert tensorboard_scalars(tmp_path)["train/loss", 6] == pytest.approx(1 / 6)
    events = list(records_of_events(files[-1]))
    start = [event.step for event in events if event.session_log.status == SessionLog.START]
    assert start == [3]
    again = {(v.tag, event.step) for event in events for v in event.summary.value}
    assert {("train/loss", 3), ("event/loss", 3)} <= again  # what it forgets comes once more
    assert min(step for _, step in again) == 3


def records_of_events(path):
    from tensorboardX.proto.event_pb2 import Event

    content, at = path.read_bytes(), 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        yield Event.FromString(content[at + 12 : at + 12 + size])
        at += 16 + size


@pytest.mark.parametrize(
    ("package", "make", "extra"),
    [
        ("wandb", lambda: loggers.WandB(project="p"), "wandb"),
        ("mlflow", lambda: loggers.MLflow(), "mlflow"),
        ("tensorboardX", lambda: loggers.TensorBoard("b"), "tensorboard"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch, package, make, extra):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'trainkit\[{extra}\]'") as caught:
        make()
    assert caught.value.name == package


# -- the real services, without a network, where they are installed ------------------------------


def run_and_kill(tmp_path, logger):
    """A run that is killed between two checkpoints and taken up; the rows of its file."""
    for kill in (27, None):
        code = (
            "import trainkit.loggers as loggers\n"
            "from tests.loop.resumable_run import run\n"
            f"run({str(tmp_path / 'run')!r}, kill={kill}, loggers=[{logger}])\n"
        )
        env = os.environ | {"WANDB_SILENT": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, timeout=300)
        assert done.returncode == (0 if kill is None else -signal.SIGKILL)
    return read_metrics(tmp_path / "run")


def charts(rows):
    """(name, step) -> value, of numbers."""
    return {
        (f"{row['kind']}/{name}", row["step"]): pytest.approx(value)
        for row in rows
        for name, value in row.items()
        if name not in ROW[:2]
    }


def test_wandb_has_every_row_once_after_a_kill(tmp_path):
    pytest.importorskip("wandb")
    logger = "loggers.WandB(project='p', mode='offline')"
    rows = run_and_kill(tmp_path, logger)
    folders = sorted((tmp_path / "run" / "wandb").glob("*offline-run-*"))
    assert [folder.name[:8] for folder in folders] == ["offline-", "replaced"]
    history, kinds = wandb_history(folders[0])
    assert history == charts(rows)
    assert len({row["step"] for row in rows}) == kinds.count("history")


def wandb_history(folder):
    """(name, step) -> value, and the kinds of records: of a log in LevelDB's format."""
    import json

    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    content, at, part, found, kinds = file.read_bytes(), 7, b"", {}, []
    while at + 7 <= len(content):
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        if ((left := -at % 2**15) and left < 7) or not kind:
            at += left or 7
            continue
        part, at = part + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or its last part
            record, part = wandb_internal_pb2.Record.FromString(part), b""
            kinds.append(record.WhichOneof("record_type"))
            step = record.history.step.num
            for item in record.history.item:
                name = "/".join(item.nested_key) or item.key
                if not name.startswith("_"):
                    assert (name, step) not in found
                    found[name, step] = json.loads(item.value_json)
    return found, kinds


def test_mlflow_has_every_row_once_after_a_kill(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    rows = run_and_kill(tmp_path, f"loggers.MLflow('digits', tracking_uri={uri!r})")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (run,) = client.search_runs([experiment])
    history = [
        ((metric.key, metric.step), metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(history) == len(dict(history))
    # What the killed process had sent stays: the same numbers, at other times.
    times = ("seconds", "per_second")
    untimed = lambda found: {key: v for key, v in found.items() if not key[0].endswith(times)}
    assert untimed(dict(history)) == untimed(charts(rows))
    assert set(dict(history)) == set(charts(rows))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"placement": "single"}
