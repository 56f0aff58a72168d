"""`trainkit report`: one run, several, and one that is under way."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from tests.loop import resumable_run
from trainkit.cli import main
from trainkit.cli.report import _named
from trainkit.loop.run_folder import RunFolder
from trainkit.report import read_run
from trainkit.report.outcome import state_of

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_several_runs_are_compared_on_one_page(here, capsys):
    for steps in (4, 8):
        resumable_run.run(here / f"of-{steps}", steps=steps)
    before = sorted(here.glob("of-4/*"))
    assert main(["report", "of-4", "of-8"]) == 0
    assert capsys.readouterr().out == f"Report: {here / 'report.html'}\n"
    page = (here / "report.html").read_text()
    assert "<title>of-4, of-8</title>" in page
    assert "http-equiv" not in page
    assert sorted(here.glob("of-4/*")) == before
    # As `report *` would be expanded, with the page between the runs.
    assert main(["report", *sorted(path.name for path in here.iterdir())]) == 0
    assert "<title>of-4, of-8</title>" in (here / "report.html").read_text()
    assert main(["report", "report.html"]) == 2
    assert "report.html is a file; give the folder of a run." in capsys.readouterr().err
    assert main(["report", "of-4", "--out", "a.html", "--title", "One"]) == 0
    assert "Finished after 4 steps: steps=4 reached" in (here / "a.html").read_text()


def test_what_is_no_run_is_said(here, capsys):
    assert main(["report", "nowhere"]) == 2
    assert "There is no nowhere; give the folder of a run" in capsys.readouterr().err
    assert main(["report", "nowhere", "--every", "0"]) == 2
    assert "--every must be a number above 0" in capsys.readouterr().err


def test_folders_of_one_name_are_told_apart(here):
    names = [name for _, name in _named([here / "a" / "run", here / "b" / "run"])]
    assert names == ["a/run", "b/run"]


def test_a_page_of_a_run_under_way_loads_itself_anew_until_it_is_over(here):
    resumable_run.run(here / "run", steps=4)
    command = [sys.executable, "-m", "trainkit", "report", "run", "--live", "--every", "0.2"]
    with RunFolder.claim(here / "run", read_run(here / "run").config):
        assert read_run(here / "run").running
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert "until the runs are over" in child.stdout.readline()
        assert '<meta http-equiv="refresh" content="0.2">' in (here / "report.html").read_text()
    timer = threading.Timer(60, child.kill)
    timer.start()
    out, _ = child.communicate()
    timer.cancel()
    assert (child.returncode, out) == (0, f"Report: {here / 'report.html'}\n")
    assert "http-equiv" not in (here / "report.html").read_text()


def test_a_killed_run_is_told_from_one_under_way_and_one_that_ended(here):
    states = []
    look = lambda now: states.append(state_of(read_run(here / "run")))
    resumable_run.run(here / "run", steps=4, hooks=[look])
    assert set(states) == {"running"}
    assert state_of(read_run(here / "run")) == "finished"
    with pytest.raises(RuntimeError):
        resumable_run.run(here / "killed", steps=4, hooks=[fail])
    assert state_of(read_run(here / "killed")) == "killed"


def fail(now):
    if now.steps == 2:
        raise RuntimeError("killed")
