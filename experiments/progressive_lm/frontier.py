"""Where growing lies against the frontier of its baselines: FLOPs to the same loss.

A row is one method at one budget, at its best learning rate: "name", "optimizer", "flops" and
"losses", one loss a seed; what grew also has "grow_at", and all else is a baseline. A baseline's
curve is its losses at all budgets, each with a learning rate that has fallen to 0; between two
budgets it is linear in the logarithm of the FLOPs. All of it seed by seed, because the seeds are
paired. What cannot be compared (see `trainkit.report.verdict`) is not said to have saved anything.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trainkit.report.verdict import EQUAL, Ending, Method, Verdict, incomparable, verdict

Row = dict[str, Any]


class Saved(NamedTuple):
    """The share that was saved, mean and standard deviation over seeds.

    Attributes:
      mean: 1 − spent / what the baseline spends to the same loss.
      spread: over seeds.
      bound: ">" where the baseline's largest budget does not get there for some seed (that budget
        is then taken, so it is more), "<" where its smallest is better already; "" otherwise.
    """

    mean: float
    spread: float
    bound: str

    @property
    def tells(self) -> bool:
        """Whether it says anything: a bound at the largest budget of all does not."""
        return self.bound != "<>" and not (self.bound == ">" and self.mean < 0.02)

    def __str__(self) -> str:
        if not self.tells:
            return "no telling"
        if self.bound:
            return f"{self.bound} {self.mean:.0%}"
        return f"{self.mean:.0%} ± {self.spread:.0%}"


def spent_to(loss: float, spent: Sequence[float], losses: Sequence[float]) -> tuple[float, str]:
    """What a baseline spends until a loss, and whether that is only a bound.

    >>> spent_to(2.5, [1.0, 4.0], [3.0, 2.0]), spent_to(1.0, [1.0, 4.0], [3.0, 2.0])
    ((2.0, ''), (4.0, '>'))
    """
    # A larger budget may end worse by chance; the smaller one has got there all the same.
    best = np.minimum.accumulate(losses)
    if loss < best[-1]:
        return float(spent[-1]), ">"
    if loss > best[0]:
        return float(spent[0]), "<"
    at = int(np.argmax(best <= loss))
    if at == 0 or best[at] == loss:
        return float(spent[at]), ""
    share = (best[at - 1] - loss) / (best[at - 1] - best[at])
    ends = np.log(spent[at - 1]), np.log(spent[at])
    return float(np.exp(ends[0] + share * (ends[1] - ends[0]))), ""


def baselines(rows: Sequence[Row], optimizer: str) -> dict[str, list[Row]]:
    """The curve of every method that does not grow: its rows, by what they spent."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["flops"]):
        if row["optimizer"] == optimizer and not row.get("grow_at"):
            found.setdefault(row["name"], []).append(row)
    return found


def saved(row: Row, baseline: Sequence[Row]) -> Saved:
    """What a row saved against a baseline to its own loss.

    Args:
      row: of a growing run.
      baseline: rows of one method, from `baselines`.
    """
    shares, bounds = [], set()
    for seed, loss in enumerate(row["losses"]):
        theirs, bound = spent_to(
            loss, [b["flops"] for b in baseline], [b["losses"][seed] for b in baseline]
        )
        shares.append(1 - row["flops"] / theirs)
        bounds.add(bound)
    bound = "".join(sorted(bounds))
    return Saved(float(np.mean(shares)), _spread(shares), bound)


def below(row: Row, curves: Sequence[Sequence[Row]]) -> tuple[float, float]:
    """How far a row lies below the lower envelope of the baselines, mean and spread over seeds.

    >>> row = {"flops": 2.0, "losses": [1.0]}
    >>> line = lambda *losses: [{"flops": f, "losses": [x]} for f, x in zip((1.0, 4.0), losses)]
    >>> below(row, [line(3.0, 2.0), line(4.0, 1.0)])
    (1.5, 0.0)
    """
    gaps = []
    for seed, loss in enumerate(row["losses"]):
        at = [
            np.interp(
                np.log(row["flops"]),
                np.log([b["flops"] for b in curve]),
                [b["losses"][seed] for b in curve],
            )
            for curve in curves
        ]
        gaps.append(min(at) - loss)
    return float(np.mean(gaps)), _spread(gaps)


class Trend(NamedTuple):
    """How what is saved, against the best of the baselines at every budget, moves with scale.

    Attributes:
      budgets: at each, the FLOPs, the share saved and its standard error over seeds; where it is
        known for every seed.
      slope: of the share, for ten times the FLOPs, and its standard error.
      ahead: the share at ten times the largest budget, and its standard error.
    """

    budgets: list[tuple[float, float, float]]
    slope: tuple[float, float]
    ahead: tuple[float, float]


def trend(rows: Sequence[Row], baseline: Sequence[Sequence[Row]]) -> Trend | None:
    """A line through the share saved against log10 of the FLOPs, of each seed by itself.

    The share is 1 − spent / what the cheapest of the baselines spends to the same loss. Errors are
    those of the mean over seeds, so they hold the spread of seeds and not the choice of a line.

    Args:
      rows: of one growing method.
      baseline: curves, from `baselines`.

    Returns:
      `None` with fewer than three budgets at which the share is known, or fewer than two seeds.

    >>> grown = [{"flops": f, "losses": [x, x]} for f, x in ((1, 4.0), (10, 3.0), (100, 2.0))]
    >>> line = [{"flops": 2.0 * row["flops"], "losses": row["losses"]} for row in grown]
    >>> [round(share, 2) for _, share, _ in trend(grown, [line]).budgets]
    [0.5, 0.5, 0.5]
    """
    known, shares = [], []
    for row in rows:
        each = (_cheapest(row, seed, baseline) for seed in range(len(row["losses"])))
        found = [share for share in each if share is not None]
        if len(found) == len(row["losses"]):
            known.append(row["flops"])
            shares.append(found)
    if len(known) < 3 or len(shares[0]) < 2:
        return None
    slopes, ends = [], []
    for one in np.array(shares, float).T:
        slope, level = np.polyfit(np.log10(known), one, 1)
        slopes.append(slope)
        ends.append(level + slope * (np.log10(known[-1]) + 1))
    errors = [mean_error(found) for found in shares]
    budgets = [(spent, *each) for spent, each in zip(known, errors, strict=True)]
    return Trend(budgets, mean_error(slopes), mean_error(ends))


def _cheapest(row: Row, seed: int, baseline: Sequence[Sequence[Row]]) -> float | None:
    """The share one seed saved against the cheapest baseline; `None` where that is not known."""
    found = [
        spent_to(row["losses"][seed], [b["flops"] for b in one], [b["losses"][seed] for b in one])
        for one in baseline
    ]
    # All baselines end at one budget, so one that does not get there is not the cheapest.
    reached = [spent for spent, bound in found if not bound]
    if not reached or any(bound == "<" for _, bound in found):
        return None
    return 1 - row["flops"] / min(reached)


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error.

    >>> mean_error([1.0, 2.0, 3.0])
    (2.0, 0.5773502691896258)
    """
    return float(np.mean(values)), _spread(values) / len(values) ** 0.5


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each growing row with what it saved against each baseline; baselines as they are.

    Nothing is added where growing and the baselines cannot be compared. A baseline's curve is
    taken from its largest budget down to where its best rate is at the edge of those tried.
    """
    out = []
    for row in rows:
        shown = dict(row)
        if row.get("grow_at"):
            curves = baselines(rows, row["optimizer"])
            ends = [method_of(end) for curve in curves.values() for end in curve]
            if not incomparable(method_of(row), ends, equal_flops=False):
                if all(row["flops"] < (1 + EQUAL) * c[-1]["flops"] for c in curves.values()):
                    shown["below"] = below(row, list(curves.values()))
                tuned = {name: _tuned(curve) for name, curve in curves.items()}
                shown["saved"] = {c[0]["name"]: saved(row, c) for c in tuned.values() if c}
        out.append(shown)
    return out


def _tuned(curve: Sequence[Row]) -> list[Row]:
    """The part of a curve at whose rates a lower and a higher one were tried too."""
    enclosed = itertools.takewhile(lambda row: method_of(row).enclosed, reversed(curve))
    return list(enclosed)[::-1]


def nearest(curve: Sequence[Row], flops: float) -> Row:
    """The row of a baseline that spent most nearly as much."""
    return min(curve, key=lambda row: abs(row["flops"] - flops))


def method_of(row: Row) -> Method:
    """A row as a verdict takes it: every row is of runs that ended with a decayed rate."""
    endings = [Ending(loss, row["flops"], row["growths"]) for loss in row["losses"]]
    return Method(row["name"], endings, row["rate"], row["tried"])


def verdict_of(rows: Sequence[Row], optimizer: str, complete: bool) -> dict[str, Any]:
    """What can be said of the first growing method, at the largest budget; as JSON holds it."""
    growing = [row for row in rows if row["optimizer"] == optimizer and row.get("grow_at")]
    if not complete or not growing:
        return dataclasses.asdict(Verdict("No verdict: not all methods have been trained yet."))
    ours = max(
        (row for row in growing if row["name"] == growing[0]["name"]), key=lambda row: row["flops"]
    )
    ends = [nearest(curve, ours["flops"]) for curve in baselines(rows, optimizer).values()]
    return dataclasses.asdict(verdict(method_of(ours), [method_of(end) for end in ends]))


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
