"""The methods that are compared, and how each is trained: every size alone, and growing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.progressive_lm.grid import Grid, Sized, Watch
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.phases import CHUNK, Phase, Size, Way, before_last, legs

PyTree = Any
Row = dict[str, Any]
# Training losses, [rates, seeds], by the FLOPs of a run until then.
Curve = list[tuple[float, np.ndarray]]
OPERATORS = {
    "identity": "uneven+identity",
    "stack": "uneven+stack",
    "interpose": "uneven+interpose",
    "middle": "uneven+middle",
    "even": "even+identity",
    "noise": "noise+identity",
    "zero_out": "zero_out+identity",
    "rms": "rms+identity",
    "stack_rms": "rms+stack",
}


class Rates(NamedTuple):
    """The learning rates of a method.

    Attributes:
      run: those it is run with.
      taken: the one taken at each budget, smallest first; `None`: the best of those run.
      tried: those that the one taken was chosen from.
    """

    run: Sequence[float]
    taken: Sequence[float] | None
    tried: Sequence[float]


@dataclasses.dataclass(eq=False)
class Methods:
    """All methods of one optimizer, over all seeds and rates at once.

    Args:
      grid: data, transformation and seeds.
      sizes: of the small and the large model; those in between have the large one's width.
      controls: depths in between.
      head_size: of attention.
      steps: the largest budget, in steps of the large model.
      shares: of it, the budgets to end at.
      rewarm: steps after a growth.
      rates: a method's kind -> its rates.
      shared: whether the blocks of a model are one, passed several times.
      lengths: shorter lengths of examples to begin with, each with the share of the largest budget
        until which it is used; every method is then trained with and without them.
    """

    grid: Grid
    sizes: tuple[tuple[int, int], tuple[int, int]]
    controls: Sequence[int]
    head_size: int
    steps: int
    shares: Sequence[float]
    rewarm: int
    rates: Callable[[str], Rates]
    shared: bool = False
    lengths: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        # What several methods begin with: the phases, the states after them, their losses.
        self._begun: tuple[list[Phase], PyTree, Curve] = [], None, []

    @functools.cached_property
    def budgets(self) -> list[float]:
        """FLOPs to end at, the smallest first."""
        return [share * self.steps * self.large.flops for share in sorted(self.shares)]

    @property
    def large(self) -> Sized:
        """The model that growing ends with."""
        return self.sized(self.sizes[1])

    def model(self, size: Size) -> Transformer:
        """A model of some width and depth."""
        return Transformer(self.grid.corpus.vocabulary, *size, self.head_size, self.shared)

    @functools.cache  # noqa: B019  kept as long as this object, which a run has one of
    def sized(self, size: Size, length: int | None = None) -> Sized:
        """A model with its programs, for examples of a length; by default the full one."""
        grid = self.grid.at_length(length or self.grid.corpus.length)
        return grid.sized(self.model(size))

    def alone(self) -> list[Way]:
        """Every size by itself, at each budget."""
        (_, shallow), (width, deep) = small, large = self.sizes
        between = [Way(str(n), self._words((width, n), small), (width, n))
                   for n in self.controls if shallow < n < deep]  # fmt: skip
        ends = [Way(name, self._words(size, other), size) for name, size, other in
                (("small", small, large), ("large", large, small))]  # fmt: skip
        return self._at_lengths([ends[0], *between, ends[1]])

    def _at_lengths(self, ways: list[Way]) -> list[Way]:
        """With every method the same from shorter examples on, if there are any."""
        if not self.lengths:
            return ways
        name = f"from length {self.lengths[0][0]}"
        short = [
            dataclasses.replace(way, name=f"{way.name}, {name}", lengths=self.lengths)
            for way in ways
        ]
        return [*short, *ways]

    def growing(
        self, operators: Sequence[str], moments: Sequence[str], shares: Sequence[float]
    ) -> list[Way]:
        """Every way to grow; the first named is the one that the verdict is about."""
        small, large = self.sizes
        path = f"{self._words(small, large)} → {self._words(large, small)}"
        found = []
        for share in sorted(shares):
            for operator in operators:
                for kept in moments:
                    words = [operator] * (len(operators) > 1) + [kept] * (len(moments) > 1)
                    words += [f"at {share:.1%}"] * (len(shares) > 1)
                    name = f"{path}, {' '.join(words)}" if words else path
                    found.append(Way(operator, name, self.sizes[1], share, kept))
        return self._at_lengths(found)

    def _words(self, size: Size, other: Size) -> str:
        """A size in words: its blocks, and its width where it is not the only one."""
        width, depth = size
        unit = "pass" if self.shared else "block"
        plural = "es" if self.shared else "s"
        words = {0: f"no {unit}", 1: f"1 {unit}"}.get(depth, f"{depth} {unit}{plural}")
        return words if width == other[0] else f"{words} of {width}"

    def phases(self, way: Way) -> list[Phase]:
        """What comes before the last model has examples of the full length."""
        cost = lambda size, length: self.sized(size, length).flops
        full = self.grid.corpus.length
        return before_last(way, self.sizes[0], full, self.budgets[-1], cost)

    def spent(self, phases: Sequence[Phase]) -> float:
        """FLOPs of one run."""
        return sum(steps * self.sized(size, length).flops for size, length, steps in phases)

    def work(self, way: Way) -> tuple[float, int]:
        """FLOPs of all runs of a method, decays from every budget included, and how many chunks."""
        per_step, phases = self.sized(way.size).flops, self.phases(way)
        spent = self.spent(phases)
        steps = sum(leg.more + leg.decay for leg in legs(self.budgets, per_step, spent))
        runs = len(self.rates(way.kind).run) * len(self.grid.seeds)
        chunks = (sum(phase.steps for phase in phases) + steps) // CHUNK
        return (spent + steps * per_step) * runs, chunks

    def train(self, way: Way, watch: Watch | None = None) -> list[Row]:
        """A row for each budget."""
        size, rates, phases = self.sized(way.size), self.rates(way.kind), self.phases(way)
        states, curve, about = self._begin(way, phases, watch)
        begun = self.spent(phases)
        seen = _recorded(curve, begun, size.flops, watch)
        rows = []
        for number, leg in enumerate(legs(self.budgets, size.flops, begun)):
            states = size.train(states, leg.more, seen)
            ahead = len(curve)
            ended = size.train(self.grid.decaying(states, leg.decay), leg.decay, seen)
            losses = size.measure(ended)
            best = best_rate(losses, rates, number)
            rows.append(
                about
                | {
                    "name": way.name,
                    "method": way.method,
                    "moments": way.moments,
                    "flops": leg.flops,
                    "rate": rates.run[best],
                    "tried": list(rates.tried),
                    "losses": losses[best].tolist(),
                    "all_losses": losses.tolist(),
                    "curve": thinned([(flops, float(x[best].mean())) for flops, x in curve]),
                }
            )
            del curve[ahead:]
        return rows

    def _begin(
        self, way: Way, phases: list[Phase], watch: Watch | None
    ) -> tuple[PyTree, Curve, Row]:
        """The states that a method begins its last phase with, and what came before."""
        before = [phase for phase in phases if phase.size != way.size]
        states, curve = self._trained(way, before, watch)
        about: Row = {"growths": 0, "grow_at": 0.0}
        if before:
            small, length, _ = before[-1]
            options = {"moments": way.moments, "rewarm": self.rewarm, "anneal": self.rewarm}
            grid = self.grid.at_length(length)
            big = grid.prepared(self.model(way.size), how=OPERATORS[way.method], **options)
            grown = grid.grow(self.sized(small, length).prepared, big, states)
            jump = self.large.measure(grown) - self.sized(small).measure(states)
            about = {"growths": 1, "grow_at": self.spent(before), "jump": float(jump.mean())}
            states = grown
        for number, (_, length, steps) in enumerate(phases[len(before) :], len(before)):
            size = self.sized(way.size, length)
            seen = _recorded(curve, self.spent(phases[:number]), size.flops, watch)
            states = size.train(states, steps, seen)
        return states, curve, about

    def _trained(self, way: Way, phases: list[Phase], watch: Watch | None) -> tuple[PyTree, Curve]:
        """Fresh states after some phases of one model, the same for all methods with these."""
        if not phases or self._begun[0] != phases:
            first = phases[0].size if phases else way.size
            states = self.grid.fresh(self.sized(first).prepared, self.rates(way.kind).run)
            curve: Curve = []
            for number, (size, length, steps) in enumerate(phases):
                sized = self.sized(size, length)
                seen = _recorded(curve, self.spent(phases[:number]), sized.flops, watch)
                states = sized.train(states, steps, seen)
            self._begun = phases, states, curve
        return self._begun[1], list(self._begun[2])


def _recorded(curve: Curve, begun: float, per_step: float, watch: Watch | None) -> Watch:
    """A watch that also puts every chunk on a curve, which goes on where it ends."""
    begun = max(begun, curve[-1][0] if curve else 0.0)
    before = len(curve)

    def seen(losses: np.ndarray) -> None:
        curve.append((begun + CHUNK * per_step * (len(curve) - before + 1), losses))
        if watch is not None:
            watch(losses)

    return seen


def thinned(points: Sequence[tuple[float, float]], ratio: float = 1.1) -> list[list[float]]:
    """Means over parts of a curve that are equally long on a logarithmic axis.

    >>> thinned([(1.0, 4.0), (1.05, 2.0), (2.0, 1.0)])
    [[1.05, 3.0], [2.0, 1.0]]
    """
    found: list[list[float]] = []
    part: list[float] = []
    for number, (flops, loss) in enumerate(points):
        part.append(loss)
        following = points[number + 1][0] if number + 1 < len(points) else np.inf
        if following > (found[-1][0] if found else flops) * ratio:
            found.append([flops, float(np.mean(part))])
            part = []
    return found


def best_rate(losses: np.ndarray, rates: Rates, budget: int) -> int:
    """The index of the rate that is taken; of `losses` [rates, seeds] the best mean.

    >>> rates = Rates((0.1, 0.2), None, (0.1, 0.2))
    >>> best_rate(np.array([[3.0, 3.0], [1.0, 2.0]]), rates, 0)
    1
    """
    if rates.taken is not None:
        return list(rates.run).index(rates.taken[budget])
    means = losses.mean(1)
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
