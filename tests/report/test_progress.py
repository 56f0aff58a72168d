"""A bar in a terminal; in a log a line an evaluation and nothing else."""

import dataclasses

import pytest

from trainkit.loop.record import Record
from trainkit.loop.stopping import Best, Budget
from trainkit.report.progress import Progress

BUDGET = Budget(steps=100)
RECORD = Record(step=50, epoch=1.5, evaluation={"accuracy": 0.5, "loss": 0.25})
LATEST = {"loss": 0.125, "examples_per_second": 1234.5}


@dataclasses.dataclass
class Result:
    steps: int = 100
    stopped: str = "steps=100 reached"
    folder: str | None = None
    best: Best = dataclasses.field(default_factory=Best)


def show(progress):
    with progress:
        progress.message("compiling", passing=True)
        progress.update(RECORD, BUDGET, {})  # before the first metrics have come
        for _ in range(50):
            progress.update(RECORD, BUDGET, LATEST)
        progress.evaluated(RECORD, LATEST, True)
        progress.ended(Result())


def test_a_log_is_told_of_compiling_and_gets_one_line_an_evaluation(capsys):
    show(Progress(terminal=False))
    assert capsys.readouterr().out.splitlines() == [
        "compiling",
        "step 50 · epoch 1.50 · evaluation: loss 0.2500, accuracy 0.5000 (best) · 1,234 examples/s",
        "Ended after 100 steps: steps=100 reached.",
    ]


def test_lines_of_a_terminal_fit_into_80_columns(monkeypatch):
    monkeypatch.setattr("trainkit.report.progress.width", lambda: 79)
    said = []
    progress = Progress(terminal=False)
    progress._say = said.append
    record = dataclasses.replace(RECORD, step=123_456, epoch=123.25)
    progress.evaluated(record, {**LATEST, "stage": 2.0}, True)
    assert said == ["stage 2 · step 123,456 · evaluation: loss 0.2500, accuracy 0.5000 (best)"]
    progress.evaluated(record, LATEST, True)
    assert len(said[-1]) <= 79


@pytest.mark.parametrize(("share", "shown"), [(0.5, "50%"), (0.994, "99%"), (0.0, "100%")])
def test_the_bar_of_a_run_that_was_interrupted_stays_where_it_was(capsys, share, shown):
    with Progress(terminal=True) as progress:
        progress.ended(Result(stopped="interrupted by SIGINT"), share)
    assert shown in capsys.readouterr().out


def test_a_long_wait_without_evaluations_gets_a_sign_of_life(capsys, monkeypatch):
    progress = Progress(terminal=False)
    monkeypatch.setattr("trainkit.report.progress.QUIET_SECONDS", -1.0)
    progress.update(RECORD, BUDGET, LATEST)
    assert capsys.readouterr().out == "step 50 · epoch 1.50 · loss 0.1250 · 1,234 examples/s\n"


def test_nothing_is_shown_where_nothing_is_wanted(capsys):
    show(Progress(enabled=False, terminal=True))
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_and_the_same_lines(capsys):
    show(Progress(terminal=True))
    out = capsys.readouterr().out
    assert "loss 0.2500, accuracy 0.5000 (best)" in out
    assert "50%" in out or "100%" in out


def test_by_default_a_pipe_is_no_terminal(capsys):
    progress = Progress()
    with progress:
        assert progress._bar is None


def test_an_interrupted_run_says_how_it_goes_on(capsys):
    Progress().ended(Result(stopped="interrupted by SIGINT", folder="runs/a"))
    assert "The same command goes on from here." in capsys.readouterr().out
