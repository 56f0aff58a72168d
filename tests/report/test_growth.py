import math

from trainkit.report import RunData
from trainkit.report.growth import comparison, growth_parts, reached


def run(name, *points):
    rows = [
        {
            "kind": "evaluation",
            "step": step,
            "loss": loss,
            "flops": flops,
            "seconds": flops / 10,
            "examples": step * 8,
        }
        for step, flops, loss in points
    ]
    return RunData(name, rows)


OURS = run("ours", (1, 10.0, 1.0), (2, 20.0, 0.5), (3, 40.0, 0.3))
LARGE = run("large", (1, 40.0, 0.9), (2, 80.0, 0.4))


def test_what_was_spent_when_a_loss_was_first_reached():
    assert reached(OURS, "loss", 0.5).flops == 20.0
    assert math.isnan(reached(OURS, "loss", 0.2).flops)


def test_a_comparison_is_at_a_loss_that_both_reached():
    (row,) = comparison([OURS, LARGE], sunk=10.0)
    assert row["value"] == 0.4
    assert (row["ours_flops"], row["flops"]) == (40.0, 80.0)
    assert row["saved"] == 0.5
    assert row["saved_sunk"] == 1 - 30 / 80


def test_the_parts_name_what_happened_and_escape_it():
    probe = {
        "best": 1,
        "candidates": [
            {
                "name": name,
                "steps": 4,
                "flops": 1e6,
                "loss": 0.5,
                "price": 0.0,
                "gain": gain,
                "error": 0.01,
            }
            for name, gain in (("do not grow", 0.0), ("stack → <big>", 0.1))
        ],
    }
    base = {"step": 10, "examples": 80, "flops": 12.0, "seconds": 1.0, "stage": 0}
    growth = {
        **base,
        "event": "growth",
        "before": "small",
        "after": "<big>",
        "how": "stack",
        "reason": "10 steps",
        "parameters_before": 10,
        "parameters_after": 20,
        "exact": False,
        "compiled_ahead": True,
        "certificate": {"forward_error": {"float32": 0.25}},
        "probe": probe,
        "text": "w: copy",
    }
    end = {**base, "event": "end", "reason": "budget spent: steps=20"}
    ledger = {"train": 1e9, "evaluate": 1e6, "probe": 1e6, "growth": 0.0, "analytic": 9e8}
    page = "".join(growth_parts([growth, end], ledger, [OURS, LARGE]))
    for words in (
        "grew: small → &lt;big&gt;, by stack",
        "budget spent: steps=20",
        "2.5e-01 (float32)",
        "stack → &lt;big&gt; (taken)",
        "+0.1000 ± 0.0100",
        "900 M",
        "50%",
    ):
        assert words in page, words
    assert "<big>" not in page
