"""The command line as one would type it again, and a summary that any JSON reader takes."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainkit.loop.record import Record
from trainkit.loop.stopping import Budget
from trainkit.loop.summary import command, write_summary


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/somewhere/bin/trainkit", "train", "mnist"], "trainkit train mnist"),
        (["/somewhere/trainkit/__main__.py", "devices"], "python -m trainkit devices"),
        (["my run.py", "--name", "a b"], "python 'my run.py' --name 'a b'"),
        ([""], "python"),
    ],
)
def test_the_command_can_be_typed_again(monkeypatch, argv, shown):
    monkeypatch.setattr(sys, "argv", argv)
    assert command() == shown


def test_what_is_not_finite_is_null(tmp_path):
    record = Record(step=1, epoch=0.5, examples=8, flops=1.0, seconds=0.5)
    folder = SimpleNamespace(path=Path(tmp_path), config={"width": 3})
    metrics = {"loss": float("nan")}
    text = write_summary(folder, record, Budget(steps=1), "finished", "all", metrics).read_text()
    assert "NaN" not in text
    summary = json.loads(text)
    assert summary["metrics"] == {"loss": None}
    assert summary["best"]["value"] is None
    assert summary["config"] == {"width": 3}
    assert summary["budget"] == {"steps": 1}
    assert (summary["outcome"], summary["stopped"], summary["steps"]) == ("finished", "all", 1)
    assert "jax" in summary["versions"]
