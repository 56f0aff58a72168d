"""Extrapolation of loss against FLOPs: held against curves whose law is known."""

import numpy as np
import pytest

from trainkit.progressive.advice import curves
from trainkit.progressive.advice.curves import Curve, noise_of, predict

FLOPS = np.array([1.0, 2.0, 4.0, 8.0])


def law(flops, floor, amplitude, exponent):
    return floor + amplitude * flops**-exponent


def drawn(random, floor, amplitude, exponent, noise, seeds=2, flops=FLOPS):
    mean = law(flops, floor, amplitude, exponent)[:, None]
    return Curve(flops, mean + noise * random.normal(size=(len(flops), seeds)))


@pytest.fixture
def lawful(monkeypatch):
    """What is added for curves that leave their law is left out: these do not."""
    monkeypatch.setattr(curves, "DRIFT", 0.0)
    monkeypatch.setattr(curves, "BEND", 0.0)


@pytest.mark.usefixtures("lawful")
@pytest.mark.parametrize("seeds", [1, 2, 4])
@pytest.mark.parametrize("noise", [0.003, 0.02])
def test_the_interval_holds_the_truth_as_often_as_it_says(noise, seeds):
    random, held, total = np.random.default_rng(seeds), 0, 200
    for _ in range(total):
        floor, amplitude = random.uniform(0, 2), random.uniform(0.5, 2)
        exponent = curves.EXPONENT * np.exp(curves.EXPONENT_SPREAD * random.normal())
        curve = drawn(random, floor, amplitude, exponent, noise, seeds)
        low, high = np.quantile(predict([curve], 240.0, draws=1000), [0.025, 0.975])
        held += low <= law(240.0, floor, amplitude, exponent) <= high
    # 95 % of 200 less three standard deviations of a binomial, sqrt(200 · .95 · .05) = 3.1.
    assert held >= 0.95 * total - 3 * 3.1


@pytest.mark.usefixtures("lawful")
def test_with_little_noise_and_a_near_budget_the_truth_is_found_closely():
    random = np.random.default_rng(0)
    found = predict([drawn(random, 1.0, 2.0, 0.5, 1e-3)], 16.0)
    low, middle, high = np.quantile(found, [0.025, 0.5, 0.975])
    truth = law(16.0, 1.0, 2.0, 0.5)
    assert abs(middle - truth) < 0.01
    # NOISE, 0.019 and worth one observation, pooled with four that show next to none: 0.0085 a run.
    # A parabola through three points is carried to twice the last FLOPs with the weights 1, −3, 3:
    # four deviations are 4 · sqrt(19) · 0.0085 / sqrt(2 seeds) = 0.105.
    assert high - low < 0.14


def test_curves_that_may_leave_their_law_are_less_sure(monkeypatch):
    curve = drawn(np.random.default_rng(0), 1.0, 2.0, 0.5, 1e-3)
    ends = np.quantile(predict([curve], 64.0), [0.025, 0.975])
    monkeypatch.setattr(curves, "BEND", 0.0)
    straight = np.quantile(predict([curve], 64.0), [0.025, 0.975])
    assert ends[0] < straight[0] < straight[1] < ends[1]


@pytest.mark.usefixtures("lawful")
def test_noisier_losses_and_a_farther_budget_are_less_sure():
    width = lambda noise, flops: np.ptp(
        np.quantile(
            predict([drawn(np.random.default_rng(1), 1.0, 2.0, 0.5, noise)], flops), [0.025, 0.975]
        )
    )
    assert width(0.001, 64.0) < 0.7 * width(0.1, 64.0)
    assert width(0.01, 16.0) < 0.7 * width(0.01, 512.0)


def test_a_family_shares_what_it_tends_to():
    """Of a curve with two points next to nothing is known alone, and much beside its family."""
    random = np.random.default_rng(2)
    whole = drawn(random, 1.0, 2.0, 0.5, 1e-3)
    part = drawn(random, 1.0, 1.5, 0.5, 1e-3, flops=FLOPS[2:])
    width = lambda draws: np.ptp(np.quantile(draws, [0.025, 0.975]))
    alone = width(predict([part], 64.0)[0])
    beside = predict([whole, part], 64.0)[1]
    assert width(beside) < 0.7 * alone
    assert np.median(beside) == pytest.approx(law(64.0, 1.0, 1.5, 0.5), abs=0.05)
    other = Curve(part.flops, part.losses, family="another")
    assert width(predict([whole, other], 64.0)[1]) == pytest.approx(alone, rel=0.2)


def test_a_larger_model_has_no_higher_floor_unless_the_losses_say_so():
    """Two sizes whose short runs are alike: the larger one is expected to go on for longer."""
    random = np.random.default_rng(5)
    made = drawn(random, 0.5, 2.0, 0.3, 0.01)
    alike = [Curve(FLOPS, made.losses, name, size) for name, size in (("small", 1), ("large", 9))]
    small, large = np.median(predict(alike, 640.0), axis=1)
    assert small > large + 0.02
    unordered = [Curve(FLOPS, made.losses, name) for name in ("small", "large")]
    small, large = np.median(predict(unordered, 640.0), axis=1)
    assert small == pytest.approx(large, abs=0.02)
    # A larger one that has stopped above the smaller one is no better for its size.
    stopped = Curve(FLOPS, np.full((4, 2), 3.0) + [-0.001, 0.001], "large", 9)
    found = predict([alike[0], stopped], 640.0)
    assert np.median(found[0]) < 1.5
    assert np.median(found[1]) > 2.5


def test_a_curve_that_its_law_misses_is_less_sure():
    steps = np.array([2.0, 1.95, 1.4, 1.38])
    smooth = law(FLOPS, 1.0, 1.0, 0.5)
    both = [Curve(FLOPS, x[:, None] + [[-0.001, 0.001]]) for x in (smooth, steps)]
    widths = [np.ptp(np.quantile(predict([c], 64.0), [0.025, 0.975])) for c in both]
    assert widths[1] > 1.3 * widths[0]


def test_the_loss_never_passes_its_floor_and_never_rises_beyond_its_points():
    rising = Curve(FLOPS, np.array([[1.0], [1.1], [1.2], [1.3]]))
    found = predict([rising], 640.0)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    below_zero = Curve(FLOPS, np.array([[-1.0], [-1.5], [-1.8], [-1.9]]))
    assert np.median(predict([below_zero], 16.0)) < -1.9


def test_the_noise_is_that_of_the_seeds():
    random = np.random.default_rng(3)
    many = [drawn(random, 1.0, 2.0, 0.5, 0.05, seeds=4) for _ in range(30)]
    variance, freedom = noise_of(many)
    assert freedom == 1 + 30 * 4 * 3
    # 360 degrees of freedom: a relative error of sqrt(2 / 360) = 7 %, three of which are taken.
    assert variance == pytest.approx(0.05**2, rel=0.22)


def test_the_same_seed_gives_the_same_draws():
    curve = drawn(np.random.default_rng(4), 1.0, 2.0, 0.5, 0.01)
    assert (predict([curve], 64.0, seed=7) == predict([curve], 64.0, seed=7)).all()
    assert (predict([curve], 64.0, seed=7) != predict([curve], 64.0, seed=8)).any()


@pytest.mark.parametrize(
    ("given", "words"),
    [([], "no curve"), ([Curve(FLOPS, np.full((4, 1), np.nan))], "not finite")],
)
def test_what_cannot_be_extrapolated_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        predict(given, 64.0)
