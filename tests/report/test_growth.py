"""What a growing run's report says beside its plots."""

import re

from trainkit.report.growth import growth_parts


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
    end |= {"flops": 1.002e9, "loss": 0.5, "finished": True, "rate_left": 0.0, "evaluated": True}
    stopped = end | {"flops": 0.7e9, "finished": False, "rate_left": 1.0, "evaluated": False}
    ledger = {"train": 1e9, "evaluate": 1e6, "probe": 1e6, "growth": 0.0, "analytic": 9e8}
    page = "".join(growth_parts([growth, end], ledger, {"large": [stopped]}))
    for words in (
        "Map of stage 1: small → &lt;big&gt;",
        "2.5e-01 (float32)",
        "stack → &lt;big&gt; (taken)",
        "+0.1000 ± 0.0100",
        "900 M",
        'this run</td><td data-name="FLOPs" class="short">1 G</td>',  # as the ledger's total
        "0.5000",
    ):
        assert words in page, words
    # Of a run that was interrupted its last loss is not told, and nothing is said to be saved.
    row = page[page.index("large</td>") :]
    assert re.findall(r">([^<>]+)</td>", row) == ["700 M", "none", "0", "no", "100%"]
    assert "saved" not in page
    assert "<big>" not in page
