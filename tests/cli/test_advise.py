"""`trainkit advise`."""

import json
import subprocess
import sys

import pytest


def advise(*arguments, where):
    command = [sys.executable, "-m", "trainkit", "advise", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=where)


SMALL = (
    "--small", "8", "0", "--large", "8", "1", "--length", "8", "--batch-size", "2",
    "--task", "sums",
)  # fmt: skip


def test_it_prints_the_advice_and_writes_it(tmp_path):
    where = "--seeds", "1", "--share", "0.5", "--out", "advice"
    done = advise("progressive_lm", *where, "--", *SMALL, "--steps", "6000", where=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "advice" / "advice.json").read_text())
    assert saved["sentence"] in done.stdout
    assert {one["name"].split(" at ")[0] for one in saved["expected"]} == {
        "width 8, depth 0",
        "width 8, depth 1",
        "width 8, depth 0 → width 8, depth 1, uneven+identity",
    }
    assert "4 of 4: " in done.stdout
    assert "of the budget." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["progresive_lm"], "did you mean 'progressive_lm'"),
        (
            ["quadratic"],
            "quadratic has no function advise(config, **how), which advice needs. "
            "Experiments with one: ",
        ),
        (["progressive_lm", "--", *SMALL], "is too small for advice"),
        (["progressive_lm", "--", "--rates", "1", "2"], "--rates has several"),
        (["progressive_lm", "--share", "2", "--", *SMALL], "share"),
    ],
)
def test_what_cannot_be_advised_on_is_named(arguments, words, tmp_path):
    done = advise(*arguments, where=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
