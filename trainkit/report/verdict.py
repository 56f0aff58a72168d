"""Whether growing paid: one sentence, claimed only where the runs allow it.

Every experiment that compares a growing run with runs that do not grow asks here, so that no claim
is made of runs that were interrupted, not decayed, not tuned alike, unequal in FLOPs, of one seed
only, or in which nothing grew.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainkit._core.units import flops

# FLOPs that differ by more than this share are not equal.
EQUAL = 0.02
# A learning rate that has fallen to this share of itself has decayed: the last step of a budget is
# not always known to the step.
DECAYED = 0.05


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a run ended, of one seed.

    Attributes:
      loss: of the last state, on validation data.
      flops: everything that was spent.
      growths: how often the model grew.
      finished: whether it ended by its own budget or target.
      rate_left: the share of the learning rate at the end, from 1 (no decay) to 0.
    """

    loss: float
    flops: float
    growths: int = 0
    finished: bool = True
    rate_left: float = 0.0

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]], metric: str = "loss") -> Ending:
        """That of a growing run, from its history."""
        end = history[-1] if history else {}
        if end.get("event") != "end" or not end.get("evaluated") or metric not in end:
            flops_so_far = end.get("flops", math.nan)
            return cls(math.nan, flops_so_far, 0, False, end.get("rate_left", 1.0))
        growths = sum(
            event["event"] == "growth" and event["parameters_before"] < event["parameters_after"]
            for event in history
        )
        return cls(end[metric], end["flops"], growths, end["finished"], end["rate_left"])


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to spend the FLOPs.

    Attributes:
      name: in the sentence.
      endings: one a seed; the seeds of all methods are the same, in the same order.
      rate: the learning rate that was taken.
      tried: those it was chosen from, at this budget.
    """

    name: str
    endings: Sequence[Ending]
    rate: float
    tried: Sequence[float]

    @property
    def losses(self) -> list[float]:
        """One a seed."""
        return [ending.loss for ending in self.endings]

    @property
    def flops(self) -> float:
        """The mean over seeds."""
        return statistics.mean(ending.flops for ending in self.endings)

    @property
    def enclosed(self) -> bool:
        """Whether a lower and a higher rate were tried, so that the one taken is the best."""
        return min(self.tried, default=self.rate) < self.rate < max(self.tried, default=self.rate)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the runs allow to say.

    Attributes:
      sentence: for people.
      pays: whether growing ended lower than every method that does not grow; `None` where that
        cannot be told.
      below: by how much, against the closest of them; `None` without a comparison.
      margin: half the 95 % interval of `below`.
    """

    sentence: str
    pays: bool | None = None
    below: float | None = None
    margin: float | None = None


def verdict(growing: Method, others: Sequence[Method]) -> Verdict:
    """Compares a growing method with those that do not grow, seed by seed.

    It pays where the 95 % interval of the mean difference (Student's t over the seeds) lies above
    0 against every other method, and does not where it lies below 0 against the closest one.

    >>> seeds = lambda *losses, **more: [Ending(loss, 1e9, **more) for loss in losses]
    >>> mine = Method("growing", seeds(1.0, 1.1, 1.2, growths=1), 0.02, (0.01, 0.02, 0.04))
    >>> large = Method("large", seeds(1.5, 1.6, 1.71), 0.02, (0.01, 0.02, 0.04))
    >>> print(verdict(mine, [large]).sentence)  # doctest: +NORMALIZE_WHITESPACE
    Growing pays here: at 1 GFLOPs it ends at a loss of 1.100, and the best of 1 that does not
    grow (large) at 1.603: lower by 0.503 ± 0.014 (95 % interval, 3 seeds).
    """
    if why := incomparable(growing, others):
        return Verdict(f"No verdict: {why}.")
    found = [interval(growing.losses, other.losses) for other in others]
    # The closest one: growing beats the others by more, or loses to them by less.
    closest = min(range(len(others)), key=lambda k: found[k][0])
    below, margin = found[closest]
    pays, unsure = None, None
    if all(mean > half for mean, half in found):
        pays, unsure = True, next((other for other in others if not other.enclosed), None)
    elif below < -margin:
        pays, unsure = False, None if growing.enclosed else growing
    if unsure is not None:
        tried = len(set(unsure.tried))
        why = (
            f"the rate {unsure.rate:g} of {unsure.name} is at the edge of the {tried} tried"
            if tried > 1
            else f"{unsure.name} was not tuned, its rate {unsure.rate:g} alone was tried"
        )
        return Verdict(f"No verdict: {why}, so another may be better.", None, below, margin)
    opening = {
        True: "Growing pays here",
        False: "Growing does not pay here",
        None: "Whether growing pays cannot be told here",
    }[pays]
    side = "lower" if below >= 0 else "higher"
    sentence = (
        f"{opening}: at {flops(growing.flops)} it ends at a loss of "
        f"{statistics.mean(growing.losses):.3f}, and the best of {len(others)} that "
        f"{'do' if len(others) > 1 else 'does'} not grow "
        f"({others[closest].name}) at {statistics.mean(others[closest].losses):.3f}: {side} by "
        f"{abs(below):.3f} ± {margin:.3f} (95 % interval, {len(growing.endings)} seeds)."
    )
    if pays is None and below > margin:
        # Sure against the closest, whose seeds differ less than those of another.
        k = next(k for k, (mean, half) in enumerate(found) if mean <= half)
        sentence += (
            f" It is not sure against {others[k].name}: lower by {found[k][0]:.3f} ± "
            f"{found[k][1]:.3f}."
        )
    return Verdict(sentence, pays, below, margin)


def incomparable(growing: Method, others: Sequence[Method], equal_flops: bool = True) -> str | None:
    """Why nothing can be claimed of some methods, or `None`."""
    if not others:
        return "nothing was run beside the growing run"
    for method in (growing, *others):
        for seed, ending in enumerate(method.endings):
            if why := _unfit(ending):
                return f"{method.name} {why} (seed {seed + 1} of {len(method.endings)})"
    still = sum(ending.growths == 0 for ending in growing.endings)
    if still or not growing.endings:
        return f"nothing grew in {still} of the {len(growing.endings)} runs that may grow"
    if grew := [m.name for m in others if any(ending.growths for ending in m.endings)]:
        return f"{grew[0]} grew too"
    if any(len(other.endings) != len(growing.endings) for other in others):
        return "not all methods have the same seeds"
    if len(growing.endings) < 2:
        return "one seed has no spread to hold a difference against"
    for method in (growing, *others):
        for ending in method.endings:
            if equal_flops and abs(ending.flops / growing.flops - 1) > EQUAL:
                return (
                    f"the FLOPs are not equal, {flops(ending.flops)} of {method.name} and "
                    f"{flops(growing.flops)} of {growing.name}"
                )
    tried = {len(set(method.tried)) for method in (growing, *others)}
    if len(tried) > 1 or 0 in tried:
        return "the methods' learning rates were not tuned with the same effort"
    return None


def _unfit(ending: Ending) -> str | None:
    if not ending.finished:
        return "is not finished"
    if not math.isfinite(ending.loss):
        return "diverged"
    if ending.rate_left > DECAYED:
        return f"ended with {ending.rate_left:.0%} of its learning rate, not decayed"
    return None


def interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The mean of theirs − ours, and half its 95 % interval, over paired seeds.

    >>> [round(x, 3) for x in interval([1.0, 1.0, 1.0], [1.1, 1.2, 1.3])]
    [0.2, 0.248]
    """
    from scipy.stats import t  # takes a while to import

    gaps = [b - a for a, b in zip(ours, theirs, strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    return statistics.mean(gaps), float(t.ppf(0.975, len(gaps) - 1)) * error
