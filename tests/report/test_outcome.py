"""What is said of a run: whether it goes, how it ended, and how far it came."""

import pytest

from trainkit.report import RunData
from trainkit.report.comparison import ranked, said, table_rows
from trainkit.report.outcome import sentence, tone


def rows(*losses, kind="evaluation"):
    return [{"step": 100 * n, "kind": kind, "loss": x} for n, x in enumerate(losses, 1)]


def run(outcome, running=False, budget=None, **more):
    summary = {"outcome": outcome, "budget": budget or {"steps": 400}, **more}
    return RunData("mine", rows(0.5, 0.3, 0.4), {}, summary, running)


@pytest.mark.parametrize(
    ("found", "starts", "how"),
    [
        (run("running", True), "Training: step 300, 75 % of steps=400. Validation loss 0.4000", ""),
        (run("running"), "Ended without a word: its last row is of step 300, 75 % of", "halted"),
        (
            run("interrupted", stopped="interrupted by SIGTERM"),
            "Interrupted by SIGTERM after 300 steps, 75 % of steps=400. Validation",
            "halted",
        ),
        (
            run("not finite", stopped="the loss is nan at step 300"),
            "Failed after 300 steps: the loss is nan at step 300.",
            "failed",
        ),
        (run("finished", stopped="steps=300 reached"), "Finished after 300 steps: steps=300", ""),
    ],
)
def test_a_run_says_how_it_is(found, starts, how):
    assert sentence(found).startswith(starts)
    assert "(best loss 0.3000 at step 200)" in sentence(found)
    assert tone(found) == how


@pytest.mark.parametrize(("limit", "share"), [(301, "99 %"), (10**7, "less than 1 %")])
def test_an_interrupted_run_is_never_at_100_percent(limit, share):
    found = run("interrupted", budget={"steps": limit}, stopped="interrupted by SIGINT")
    assert f", {share} of steps=" in sentence(found)


def test_the_best_is_that_of_the_runs_own_measure():
    best = {"step": 100, "value": 0.9, "metrics": {"accuracy": 0.9, "loss": 0.5}}
    assert "(best accuracy 0.9000 at step 100)" in sentence(run("finished", stopped="x", best=best))


def test_a_comparison_names_what_is_not_finished_and_puts_nan_last():
    nan, half = (
        RunData("nan", rows(float("nan")), {}, {"outcome": "not finite"}),
        run("interrupted"),
    )
    good = RunData("good", rows(0.2), {}, {"outcome": "finished"})
    assert [r.name for r in ranked([nan, half, good])] == ["good", "mine", "nan"]
    assert [r.name for r in ranked([nan, half, good], mode="max")] == ["mine", "good", "nan"]
    assert said([nan, half, good]) == (
        "good has the lowest validation loss, 0.2000, before mine with 0.4000. "
        "Not finished: nan (not finite), mine (interrupted)."
    )
    assert [row["state"] for row in table_rows([nan, half, good])] == [
        "finished",
        "interrupted",
        "not finite",
    ]
    assert said([RunData("none", [])]) == "No run has a loss to compare."
