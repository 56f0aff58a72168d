"""A bar in a terminal; in a log a line an evaluation and nothing else."""

import dataclasses

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
        for _ in range(50):
            progress.update(RECORD, BUDGET, LATEST)
        progress.evaluated(RECORD, LATEST, True)
        progress.ended(Result())


def test_a_log_gets_one_line_an_evaluation(capsys):
    show(Progress(terminal=False))
    assert capsys.readouterr().out.splitlines() == [
        "step 50 · epoch 1.50 · evaluation: loss 0.2500, accuracy 0.5000 (best) · 1,234 examples/s",
        "Ended after 100 steps: steps=100 reached.",
    ]


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
