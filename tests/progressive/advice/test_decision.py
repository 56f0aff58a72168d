"""The decision, on curves whose truth is known."""

import math

import numpy as np
import pytest

from trainkit.progressive import Data, Stage, triggers
from trainkit.progressive.advice.choices import Choice
from trainkit.progressive.advice.curves import Curve, predict
from trainkit.progressive.advice.decision import decide, expected_of, quantiles
from trainkit.progressive.ledger import Ledger

FLOPS = np.array([1.0, 2.0, 4.0, 8.0])
BUDGET = 64.0
CHOICES = [
    Choice("4", (Stage(4),)),
    Choice("8", (Stage(8),)),
    Choice("4 → 8", (Stage(4, triggers.steps(5)), Stage(8)), 5, 0.01),
]


def advised(losses, diverged=()):
    """The advice for the losses [rungs, seeds] of each choice; the last two share their model."""
    families = [0, 1, 1]
    fit = [k for k in range(3) if k not in diverged]
    draws = np.full((3, 4000), np.inf)
    draws[fit] = predict([Curve(FLOPS, losses[k], families[k]) for k in fit], BUDGET)
    expected = [
        expected_of(
            choice, [40, 80, 80][k], draws[k], (FLOPS, losses[k]), [3.0, 3.2] * choice.grows
        )
        for k, choice in enumerate(CHOICES)
    ]
    return decide(expected, draws, BUDGET, Ledger(train=6.4))


def measured(random, amplitudes, noise):
    """A small size that stops at 2, and a large and a grown one that go on to 1."""
    laws = [2 + amplitudes[0] * FLOPS**-0.6, *(1 + a * FLOPS**-0.4 for a in amplitudes[1:])]
    return [law[:, None] + noise * random.normal(size=(4, 2)) for law in laws]


TRUTHS = {  # 64 times the first FLOPs: 2.04 small, and 1 + amplitude · .19 large and grown
    "grown lower": (0.5, 3.0, 2.0),
    "grown higher": (0.5, 2.0, 3.0),
    "grown a little lower": (0.5, 2.2, 2.0),
    "the same": (0.5, 2.0, 2.0),
}


@pytest.mark.parametrize("noise", [0.003, 0.05])
@pytest.mark.parametrize("truth", TRUTHS)
def test_what_is_taken_loses_little_and_a_claim_is_true(truth, noise):
    """The expected best is taken; that growing pays is said only where the evidence separates."""
    laws = TRUTHS[truth]
    ends = [2 + laws[0] * BUDGET**-0.6, *(1 + a * BUDGET**-0.4 for a in laws[1:])]
    found = [advised(measured(np.random.default_rng(seed), laws, noise)) for seed in range(20)]
    lost = []
    for one in found:
        assert one.grow == (one.below[0] > 0) == (one.chance > 0.5) == one.best.choice.grows
        assert one.other.choice.grows != one.grow
        assert ("which pays" in one.sentence) == (one.below[1] > 0)
        assert ("does not pay" in one.sentence) == (one.below[2] < 0)
        names = [choice.name for choice in CHOICES]
        lost.append(ends[names.index(one.best.choice.name)] - min(ends))
    # What the noise of eight losses, carried eight times as far, leaves untold.
    assert np.mean(lost) <= (0.005 if noise < 0.01 else 0.06)
    # Of 20 claims at 95 % one in 40 is wrong by chance; three are allowed.
    wrong = {"which pays": truth in ("grown higher", "the same"),
             "does not pay": truth not in ("grown higher", "the same")}  # fmt: skip
    for claim, is_wrong in wrong.items():
        assert not is_wrong or sum(claim in one.sentence for one in found) <= 3


def test_what_pays_is_told_from_what_may():
    random = np.random.default_rng(0)
    sure = advised(measured(random, TRUTHS["grown lower"], 0.003))
    assert sure.sentence.startswith("Grow, which pays: 4 → 8")
    assert sure.chance > 0.95
    worse = advised(measured(random, TRUTHS["grown higher"], 0.003))
    assert worse.sentence.startswith("Do not grow: growing does not pay: 4 → 8")
    assert worse.best.choice.name == "8"
    for shift, sentence in (
        (-0.02, "Grow, which may pay: 4 → 8"),
        (0.02, "Do not grow: growing is not expected to pay: 4 → 8"),
    ):
        draws = 2 + 0.1 * random.normal(size=(3, 4000))
        draws[0] += 1
        draws[2] += shift
        expected = [
            expected_of(choice, 40, draws[k], (FLOPS, np.ones((4, 2))), [])
            for k, choice in enumerate(CHOICES)
        ]
        alike = decide(expected, draws, BUDGET, Ledger())
        assert alike.sentence.startswith(sentence)
        # P(N(0, 0.1 · √2) > 0.02)
        assert alike.chance == pytest.approx(0.556 if shift < 0 else 0.444, abs=0.03)


def test_growth_must_beat_every_size_not_only_the_large_one():
    random = np.random.default_rng(0)
    losses = measured(random, (0.5, 3.0, 2.0), 0.003)
    losses[0] = 1.0 + 0.5 * FLOPS[:, None] ** -0.3 + 0.003 * random.normal(size=(4, 2))
    found = advised(losses)
    assert not found.grow
    assert found.best.choice.name == "4"


def test_of_sizes_that_short_runs_do_not_tell_apart_the_larger_is_taken():
    noise = np.random.default_rng(0).normal(size=(3, 4, 2))
    large, grown = (1 + a * FLOPS[:, None] ** -0.4 for a in (2.2, 3.0))
    alike = [1 + 2.15 * FLOPS[:, None] ** -0.4, large, grown]
    found = advised([law + 0.02 * more for law, more in zip(alike, noise, strict=True)])
    by_name = {one.choice.name: one for one in found.expected}
    assert by_name["4"].low < by_name["8"].loss < by_name["4"].high
    assert found.best.choice.name == "8"
    # One that is clearly above is not taken for its size.
    above = [1 + 0.6 * FLOPS[:, None] ** -0.4, 3 + 0 * large, 3.5 + 0 * grown]
    found = advised([law + 0.002 * more for law, more in zip(above, noise, strict=True)])
    assert found.best.choice.name == "4"


def test_the_sentence_and_the_table_have_the_numbers():
    found = advised(measured(np.random.default_rng(0), (0.5, 3.0, 2.0), 0.003))
    assert found.sentence.startswith(
        "Grow, which pays: 4 → 8 of the budget, after 5 steps; expected loss 1.3"
    )
    assert "lower than the best size alone (95 % interval" in found.sentence
    shown = str(found)
    assert "10.0% of the budget" in shown
    assert all(choice.name in shown for choice in CHOICES)
    assert [one.loss for one in found.expected] == sorted(one.loss for one in found.expected)
    saved = found.to_json()
    assert saved["grow"] is True
    assert saved["below"][0] > 0
    # Two seeds, 3.0 and 3.2: the interval of a third, t(0.975, 1) · 0.141 · sqrt(1.5).
    assert found.best.before_growth == pytest.approx((3.1, 12.706 * 0.02**0.5 * 1.5**0.5), rel=1e-3)


def test_a_growth_that_diverged_is_not_advised_and_sizes_that_diverged_are_refused():
    losses = measured(np.random.default_rng(0), (0.5, 3.0, 2.0), 0.003)
    found = advised(losses, diverged=(2,))
    assert not found.grow
    assert found.sentence.startswith("Do not grow: every growth diverged. Train 8 alone")
    with pytest.raises(ValueError, match="lower the learning rate"):
        advised(losses, diverged=(0, 1))


def test_an_interval_of_draws():
    low, middle, high = quantiles(np.linspace(0, 1, 1001))
    assert (low, middle, high) == pytest.approx((0.025, 0.5, 0.975))
    assert quantiles(np.array([1.0, math.inf])) == (math.inf,) * 3


def test_a_size_that_is_dearer_by_its_data_is_taken_as_a_larger_model_is():
    # The same model with short and with long examples, whose losses do not tell them apart. The
    # short ones are ahead, because they have made more steps.
    choices = [
        Choice("short", (Stage(8, data=Data(sequence_length=4)),)),
        Choice("long", (Stage(8, data=Data(sequence_length=16)),)),
        Choice("short → long", (Stage(8, triggers.steps(5)), Stage(8)), 5, 0.01),
    ]
    laws = [1 + 1.9 * FLOPS**-0.4, 1 + 2.0 * FLOPS**-0.4, 1 + 2.5 * FLOPS**-0.4]
    losses = [law[:, None] for law in laws]
    for dear in (0, 1):  # whichever it is, although the first ends lower
        costs = [1.0 + 9.0 * (k == dear) for k in range(3)]
        curves = [Curve(FLOPS, losses[k], min(k, 1), costs[k]) for k in range(3)]
        draws = predict(curves, BUDGET)
        expected = [
            expected_of(choice, costs[k], draws[k], (FLOPS, losses[k]), [3.0] * choice.grows)
            for k, choice in enumerate(choices)
        ]
        advice = decide(expected, draws, BUDGET, Ledger(train=6.4))
        assert not advice.grow
        assert advice.best.choice.name == choices[dear].name
