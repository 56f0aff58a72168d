"""Loss against FLOPs: a saturating power law through a few short runs, and how sure it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

# Exponents that are tried, and the prior over their logarithm: most published curves of loss
# against FLOPs, with a floor, have one between 0.1 and 0.7.
EXPONENTS = np.geomspace(0.03, 1.5, 40)
EXPONENT, EXPONENT_SPREAD = 0.3, 0.7
FLOORS = 80  # floors that are tried, evenly from the lowest that is possible
# Noise that is assumed until the seeds say otherwise: a share of the loss, worth one observation.
NOISE = 0.01
# A curve leaves its law beyond its points. The logarithm of what is above the floor walks at
# random, with this deviation for FLOPs that are e times as many; and the exponent of a family is
# another there, with this deviation of its logarithm. The first points are before the law. With
# BEND = 0.35 and all points, 67 % of the 48 losses of twelve of the tasks of `trainkit train
# regret` were inside their 95 % intervals, with these values 85 %. DRIFT is assumed.
DRIFT, BEND, POINTS = 0.02, 0.6, 3
# Draws that are made for each that is asked for, of which those with ordered floors are kept; and
# the fewest that are: below, the losses contradict the order, and it is given up.
SPARE, FEWEST = 16, 100


@dataclasses.dataclass(frozen=True)
class Curve:
    """The losses of finished runs that differ in their FLOPs alone.

    Attributes:
      flops: of each budget, [n], ascending and above 0.
      losses: float64 [n, seeds].
      family: curves of one family end with the same model, and share floor and exponent.
      size: FLOPs of a step with that model and its data; the floor of a larger one is not above
        that of a smaller.
    """

    flops: np.ndarray
    losses: np.ndarray
    family: Hashable = 0
    size: float = 0.0


def predict(
    curves: Sequence[Curve], flops: float, *, draws: int = 4000, seed: int = 0
) -> np.ndarray:
    """Draws of the loss that each curve reaches at a budget, float64 [curves, draws].

      L(C) = E + A · C^(−β)

    It goes through the last three points. The floor E and the exponent β are those of a family, the
    amplitude A > 0 is a curve's own. Their posterior is computed on a grid of (E, β), where A and
    the noise can be integrated in closed form: Gaussian noise of unknown size, pooled over all
    curves from the spread of seeds, and larger in a family that its law misses. Beyond the last
    point, A walks at random (`DRIFT`) and β is another (`BEND`). The floor of a larger model, or of
    longer examples, is not above a smaller one's, because with enough FLOPs it could do the same,
    unless the losses contradict that.

    Args:
      curves: one or more, of the same number of seeds.
      flops: the budget, at least the largest FLOPs of every curve.
      draws: how many.
      seed: of the draws.

    Raises:
      ValueError: no curve, or a loss that is not finite.

    >>> flops = np.array([1.0, 2.0, 4.0, 8.0])
    >>> losses = (1.0 + 2.0 * flops**-0.5)[:, None] + np.array([-0.001, 0.001])
    >>> found = predict([Curve(flops, losses)], 64.0)
    >>> bool(abs(np.median(found) - 1.25) < 0.03), found.shape
    (True, (1, 4000))

    Reference: Hoffmann et al., Training Compute-Optimal Large Language Models, 2022 (the law).
    """
    if not curves:
        raise ValueError("there is no curve to extrapolate.")
    for curve in curves:
        if not np.isfinite(curve.losses).all():
            raise ValueError("a curve has a loss that is not finite: leave that curve out.")
    random = np.random.default_rng(seed)
    prior = noise_of(curves)
    curves = [
        dataclasses.replace(one, flops=one.flops[-POINTS:], losses=one.losses[-POINTS:])
        for one in curves
    ]
    found = np.empty((len(curves), SPARE * draws))
    floors = []
    for family in dict.fromkeys(curve.family for curve in curves):
        members = [k for k, curve in enumerate(curves) if curve.family == family]
        of_family = [curves[k] for k in members]
        floor, found[members] = _family(of_family, flops, prior, SPARE * draws, random)
        floors.append((of_family[0].size, floor))
    kept = np.flatnonzero(_ordered(floors))
    if len(kept) < FEWEST:
        kept = np.arange(SPARE * draws)
    return found[:, kept[:draws] if len(kept) >= draws else random.choice(kept, draws)]


def _ordered(floors: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """Which draws have no larger size with a higher floor than a smaller one."""
    kept = np.ones(floors[0][1].shape, bool)
    for small, above in floors:
        for large, below in floors:
            if small < large:
                kept &= above >= below
    return kept


def noise_of(curves: Sequence[Curve]) -> tuple[float, float]:
    """The variance of a run's loss, and its degrees of freedom, pooled over seeds."""
    level = float(np.mean([np.abs(curve.losses).mean() for curve in curves]))
    total, freedom = (NOISE * level) ** 2, 1.0
    for curve in curves:
        gaps = curve.losses - curve.losses.mean(1, keepdims=True)
        total += float((gaps**2).sum())
        freedom += curve.losses.shape[0] * (curve.losses.shape[1] - 1)
    return max(total / freedom, 1e-30), freedom


def _family(
    curves: Sequence[Curve],
    flops: float,
    prior: tuple[float, float],
    draws: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the floor [draws], and of the loss of each curve [curves, draws]."""
    from scipy.special import log_ndtr, ndtr, ndtri  # takes a while to import

    variance, freedom = prior
    seeds = curves[0].losses.shape[1]
    floors = _floors(curves)
    missed = np.zeros((len(EXPONENTS), len(floors)))
    weight = -0.5 * (np.log(EXPONENTS / EXPONENT) / EXPONENT_SPREAD)[:, None] ** 2 + missed
    amplitudes, lengths, points = [], [], 0
    for curve in curves:
        # Powers are relative to the last point, so that the amplitude is what is above the floor
        # there: it is known best, and its prior says nothing of the exponent.
        basis = (curve.flops / curve.flops[-1]) ** -EXPONENTS[:, None]  # [exponents, n]
        above = curve.losses.mean(1) - floors[:, None]  # [floors, n]
        length = (basis**2).sum(1)[:, None]
        amplitude = basis @ above.T / length
        missed += (above**2).sum(1) - amplitude**2 * length
        weight -= 0.5 * np.log(length)
        amplitudes.append(amplitude)
        lengths.append(length)
        points += len(curve.flops)
    missed = seeds * np.maximum(missed, 0.0) + freedom * variance
    freedom += points - len(curves)
    weight -= freedom / 2 * np.log(missed)
    deviation = [np.sqrt(missed / freedom / seeds / length) for length in lengths]
    for amplitude, error in zip(amplitudes, deviation, strict=True):
        weight += log_ndtr(amplitude / error)  # it is above 0
    weight = np.exp(weight - weight.max()).ravel()
    chosen = random.choice(weight.size, draws, p=weight / weight.sum())
    exponent, floor = EXPONENTS[chosen // len(floors)], floors[chosen % len(floors)]
    scale = np.sqrt(freedom / random.chisquare(freedom, draws))
    later = exponent * np.exp(BEND * random.normal(size=draws))
    found = []
    for curve, amplitude, error in zip(curves, amplitudes, deviation, strict=True):
        mean, spread = amplitude.ravel()[chosen], error.ravel()[chosen] * scale
        lowest = ndtr(-mean / spread)
        share = lowest + (1 - lowest) * random.uniform(1e-9, 1 - 1e-9, draws)
        last = np.maximum(mean + spread * ndtri(np.minimum(share, 1 - 1e-12)), 0.0)
        beyond = max(np.log(flops / curve.flops[-1]), 0.0)
        walk = DRIFT * np.sqrt(beyond) * random.normal(size=draws)
        found.append(floor + last * np.exp(walk - later * beyond))
    return floor, np.stack(found)


def _floors(curves: Sequence[Curve]) -> np.ndarray:
    """Floors below all points; a loss that has always been above 0 is taken to stay there."""
    losses = np.concatenate([curve.losses.mean(1) for curve in curves])
    lowest, highest = float(losses.min()), float(losses.max())
    bottom = 0.0 if lowest > 0 else lowest - 10 * max(highest - lowest, 1e-12)
    return np.linspace(bottom, lowest, FLOORS + 1)[:-1]
