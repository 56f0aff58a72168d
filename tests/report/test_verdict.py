"""What is claimed of growing, and what the runs must be for any claim."""

import dataclasses
import math
import re

import pytest

from trainkit.report.verdict import Ending, Method, verdict

RATES = (0.01, 0.02, 0.04)


def method(name, losses, **more):
    endings = [Ending(loss, 1e9, growths=name == "growing") for loss in losses]
    return Method(name, **{"endings": endings, "rate": 0.02, "tried": RATES} | more)


def with_one(of, **changes):
    """The method with another ending of its last seed."""
    last = dataclasses.replace(of.endings[-1], **changes)
    return dataclasses.replace(of, endings=[*of.endings[:-1], last])


GROWING = method("growing", [1.0, 1.1, 1.2])
SMALL, LARGE = method("small", [1.9, 2.0, 2.1]), method("large", [1.5, 1.6, 1.71])


def test_it_pays_only_against_every_baseline_and_beyond_the_spread():
    found = verdict(GROWING, [SMALL, LARGE])
    assert found.pays
    # Differences .5, .5, .51; the 97.5 % quantile of t with 2 degrees of freedom is 4.3027.
    assert found.below == pytest.approx(0.5033, abs=1e-4)
    assert found.margin == pytest.approx(4.3027 * 0.0057735 / 3**0.5, rel=1e-3)
    assert found.sentence.startswith("Growing pays here: at 1 GFLOPs it ends at a loss of 1.100")
    assert "(large) at 1.603: lower by 0.503 ± 0.014 (95 % interval, 3 seeds)" in found.sentence
    close = method("between", [1.0, 1.15, 1.21])
    assert verdict(GROWING, [SMALL, LARGE, close]).pays is None
    assert "cannot be told" in verdict(GROWING, [close]).sentence
    lower = method("between", [0.8, 0.9, 1.01])
    lost = verdict(GROWING, [SMALL, lower])
    assert lost.pays is False
    assert "Growing does not pay here" in lost.sentence
    assert "(between) at 0.903: higher by 0.197" in lost.sentence


def test_it_says_against_which_baseline_it_is_not_sure():
    # On the mean the large one is closest. Gaps to the other: .2, 1.9, 2.8, so 4.3027 · 1.320 / √3.
    wide = method("wide", [1.2, 3.0, 4.0])
    found = verdict(GROWING, [wide, LARGE])
    assert found.pays is None
    assert "(large) at 1.603: lower by 0.503" in found.sentence
    assert "It is not sure against wide: lower by 1.633 ± 3.280" in found.sentence


@pytest.mark.parametrize(
    ("growing", "others", "why"),
    [
        (GROWING, [], "nothing was run beside"),
        (with_one(GROWING, growths=0), [LARGE], "nothing grew in 1 of the 3 runs that may grow"),
        (with_one(GROWING, finished=False), [LARGE], r"growing is not finished \(seed 3 of 3\)"),
        (GROWING, [SMALL, with_one(LARGE, finished=False)], "large is not finished"),
        (with_one(GROWING, rate_left=0.3), [LARGE], "30% of its learning rate"),
        (GROWING, [with_one(LARGE, rate_left=1.0)], "large ended with 100%"),
        (GROWING, [with_one(LARGE, loss=math.nan)], "large diverged"),
        (GROWING, [with_one(LARGE, flops=1.03e9)], "not equal, 1.03 GFLOPs of large and 1 GFLOPs"),
        (with_one(GROWING, flops=1.5e9), [LARGE], "the FLOPs are not equal"),
        (GROWING, [with_one(LARGE, growths=1)], "large grew too"),
        (GROWING, [method("large", [1.5, 1.6])], "same seeds"),
        (method("growing", [1.0]), [method("large", [1.5])], "one seed has no spread"),
        (GROWING, [method("large", [1.5, 1.6, 1.7], tried=(0.02,))], "same effort"),
        (GROWING, [method("large", [1.5, 1.6, 1.7], tried=())], "same effort"),
        (GROWING, [method("large", [1.5, 1.6, 1.7], rate=0.04)], "0.04 of large is at the edge"),
        (
            method("growing", [2.5, 2.6, 2.7], rate=0.01),
            [LARGE],
            "0.01 of growing is at the edge of the 3",
        ),
    ],
)
def test_nothing_is_claimed_of(growing, others, why):
    found = verdict(growing, others)
    assert found.pays is None
    assert found.sentence.startswith("No verdict: ")
    assert re.search(why, found.sentence), found.sentence


def test_an_ending_is_read_from_a_history():
    growth = {"event": "growth", "parameters_before": 4, "parameters_after": 8}
    end = {"event": "end", "flops": 1e9, "loss": 0.5, "finished": True, "rate_left": 0.0}
    end["evaluated"] = True
    data_only, shrunk = growth | {"parameters_after": 4}, growth | {"parameters_after": 2}
    assert Ending.of([growth, data_only, shrunk, end]) == Ending(0.5, 1e9, 1, True, 0.0)
    # Nothing is known of a run under way, nor of the last state of one that was not evaluated.
    for history in ([], [growth], [growth, end | {"evaluated": False}]):
        assert not Ending.of(history).finished
        assert math.isnan(Ending.of(history).loss)
