"""Metrics on disk: every format says the same, and a position cuts them all back."""

import csv
import errno
import importlib
import json
import math

import numpy as np
import pytest

from trainkit._core.run_files import read_metrics
from trainkit.loop.metrics_log import MetricsLog

TRAIN = {"step": 1, "kind": "train", "loss": 0.5}
EVALUATION = {"step": 1, "kind": "evaluation", "loss": 0.25, "accuracy": 0.75}


def read_csv(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_rows_come_back_from_both_formats(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(TRAIN)
        log.write(EVALUATION)  # brings a new column
        log.write(TRAIN | {"step": 2, "loss": np.float32(0.125)})
    rows = read_metrics(tmp_path)
    assert rows == [TRAIN, EVALUATION, TRAIN | {"step": 2, "loss": 0.125}]
    assert read_csv(tmp_path) == [
        {"step": "1", "kind": "train", "loss": "0.5", "accuracy": ""},
        {"step": "1", "kind": "evaluation", "loss": "0.25", "accuracy": "0.75"},
        {"step": "2", "kind": "train", "loss": "0.125", "accuracy": ""},
    ]


def test_what_is_not_finite_stays_valid_json(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf}
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write({"step": 3, "kind": "train", **values})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)
    assert read_csv(tmp_path)[0]["a"] == "nan"


def test_a_row_can_be_read_before_the_log_is_closed(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(TRAIN)
        assert read_metrics(tmp_path) == [TRAIN]
        assert len(read_csv(tmp_path)) == 1


def test_a_killed_runs_rows_after_its_checkpoint_are_dropped_from_every_format(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(TRAIN)
        place = log.position
        log.write(TRAIN | {"step": 2, "extra": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "kind": "tr')  # killed in the middle of a line
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    with MetricsLog(tmp_path, position=place, tensorboard=False) as log:
        assert log.position == place
        log.write(TRAIN | {"step": 2})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    assert [row["step"] for row in read_csv(tmp_path)] == ["1", "2"]
    assert "extra" not in read_csv(tmp_path)[0]


def test_a_new_log_starts_empty(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(TRAIN)
    MetricsLog(tmp_path, tensorboard=False).close()
    assert read_metrics(tmp_path) == []


DAMAGE = {
    "emptied": (lambda content: b"", []),
    "cut": (lambda content: content[:-5], [1]),
    "a number flipped": (lambda content: content.replace(b"0.5", b"0.7", 1), [1, 2]),
    "a row broken": (lambda content: b"\xff" + content[1:], [2]),
    "rows of something else": (lambda content: b'[1]\n{"a": 1}\n7\n' + content[15:], [2]),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "deleted", "a link"])
def test_a_damaged_log_goes_on_with_the_rows_that_are_left_and_says_so(tmp_path, damage):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(TRAIN)
        log.write(TRAIN | {"step": 2})
        place = log.position
        log.write(TRAIN | {"step": 3})
    path, victim, left = tmp_path / "metrics.jsonl", tmp_path / "victim", []
    if damage in DAMAGE:
        change, left = DAMAGE[damage]
        path.write_bytes(change(path.read_bytes()[: place["bytes"]]))
        damaged = path.read_bytes()
    elif damage == "deleted":
        path.unlink()
        damaged = b""
    else:
        damaged = b""
        path.rename(victim)
        path.symlink_to(victim)
    with pytest.warns(match=rf"metrics\.jsonl is not what.*: {len(left)} of 2 rows are left"):
        log = MetricsLog(tmp_path, position=place, tensorboard=False)
    with log:
        log.write(TRAIN | {"step": 3})
        place = log.position
    assert [row["step"] for row in read_metrics(tmp_path)] == [*left, 3]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged
    assert not victim.exists() or len(read_metrics(victim)) == 3
    MetricsLog(tmp_path, position=place, tensorboard=False).close()  # whole from here on


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match=r"rows go there: .*metrics\.jsonl"):
        MetricsLog(tmp_path, tensorboard=False)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with MetricsLog(tmp_path, tensorboard=True) as log:
        log.write(TRAIN)
        log.write(EVALUATION)
    assert tensorboard_scalars(tmp_path) == {
        ("train/loss", 1): 0.5,
        ("evaluation/loss", 1): 0.25,
        ("evaluation/accuracy", 1): 0.75,
    }


def tensorboard_scalars(folder):
    """The scalars of an event file: records of (length, crc, bytes, crc), each a protobuf."""
    from tensorboardX.proto.event_pb2 import Event

    scalars = {}
    for file in (folder / "tensorboard").iterdir():
        content, at = file.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            scalars |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            at += 16 + size
    return scalars


class Full:
    """A file on a disk that is full."""

    def __init__(self, file, room=0):
        self._file, self._room = file, room

    def write(self, content):
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written, self._room = self._file.write(content[: self._room]), 0
        return written

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("name", ["metrics.csv", "tensorboard"])
def test_what_is_made_from_the_rows_ends_on_a_full_disk_and_nothing_else_does(tmp_path, name):
    with MetricsLog(tmp_path, tensorboard=True) as log:
        log.write(TRAIN)
        table, board = log._loggers
        if name == "tensorboard":
            writer = board._file._py_recordio_writer
            writer._writer = Full(writer._writer)
        else:
            table._file = Full(table._file)
        with pytest.warns(match=rf"{name} ends here: No space left"):
            log.write(TRAIN | {"step": 2})
        for step in range(3, 30):
            log.write(TRAIN | {"step": step})
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 30))


def test_a_row_that_does_not_fit_is_not_half_there(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(TRAIN)
        file, log._truth._file = log._truth._file, Full(log._truth._file, room=10)
        with pytest.raises(OSError, match=r"the run ends here and can go on.*metrics\.jsonl"):
            log.write(TRAIN | {"step": 2})
        log._truth._file = file
    assert read_metrics(tmp_path) == [TRAIN]
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_without_tensorboardx_there_are_no_event_files_and_asking_for_them_is_an_error(
    tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else find(name)
    )
    MetricsLog(tmp_path).close()
    assert not (tmp_path / "tensorboard").exists()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trainkit\[tensorboard\]'"):
        MetricsLog(tmp_path, tensorboard=True)
