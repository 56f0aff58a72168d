"""The methods that are compared, and how each is trained: every size alone, and growing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.progressive_lm.grid import CHUNK, Grid, Sized, Watch, whole
from experiments.progressive_lm.model import Transformer

PyTree = Any
Row = dict[str, Any]
# Training losses, [rates, seeds], by the FLOPs of a run until then.
Curve = list[tuple[float, np.ndarray]]
DECAY = 0.2  # the share of every budget over which the learning rate falls
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


@dataclasses.dataclass(frozen=True)
class Way:
    """One method.

    Attributes:
      method: "small", "large", the number of blocks in between, or the operator that grows.
      name: in tables.
      size: width and depth that it ends with.
      grow_at: the share of the largest budget at which it grows; 0 for one that does not.
      moments: what becomes of them in the growth.
    """

    method: str
    name: str
    size: tuple[int, int]
    grow_at: float = 0.0
    moments: str = ""

    @property
    def kind(self) -> str:
        """What learning rates are tuned for."""
        return "growing" if self.grow_at else self.method


class Leg(NamedTuple):
    """Steps to a budget: at the full rate, then the decay from there; and what it all comes to."""

    more: int
    decay: int
    flops: float


def legs(budgets: Sequence[float], per_step: float, spent: float) -> Iterator[Leg]:
    """How a run with a stable rate reaches each of several budgets with a decayed one.

    >>> list(legs([100.0, 200.0], 1.0, 0.0))
    [Leg(more=80, decay=20, flops=100.0), Leg(more=80, decay=40, flops=200.0)]
    """
    for budget in budgets:
        more = whole((budget * (1 - DECAY) - spent) / per_step)
        spent += more * per_step
        decay = whole((budget - spent) / per_step)
        yield Leg(more, decay, spent + decay * per_step)


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
      shared: whether the blocks of a model are one, passed several times.
      rates: a method's kind -> its rates.
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

    def __post_init__(self) -> None:
        self._trunk: tuple[int, PyTree, Curve] = 0, None, []

    @functools.cached_property
    def budgets(self) -> list[float]:
        """FLOPs to end at, the smallest first."""
        return [share * self.steps * self.large.flops for share in sorted(self.shares)]

    @functools.cached_property
    def small(self) -> Sized:
        """The model that growing begins with."""
        return self.sized(self.sizes[0])

    @functools.cached_property
    def large(self) -> Sized:
        """The model that it ends with."""
        return self.sized(self.sizes[1])

    def model(self, size: tuple[int, int]) -> Transformer:
        """A model of some width and depth."""
        return Transformer(self.grid.corpus.vocabulary, *size, self.head_size, self.shared)

    @functools.cache  # noqa: B019  kept as long as this object, which a run has one of
    def sized(self, size: tuple[int, int]) -> Sized:
        """A model with its programs."""
        return self.grid.sized(self.model(size))

    def alone(self) -> list[Way]:
        """Every size by itself, at each budget."""
        (_, shallow), (width, deep) = small, large = self.sizes
        between = [Way(str(n), self._words((width, n), small), (width, n))
                   for n in self.controls if shallow < n < deep]  # fmt: skip
        ends = [Way(name, self._words(size, other), size) for name, size, other in
                (("small", small, large), ("large", large, small))]  # fmt: skip
        return [ends[0], *between, ends[1]]

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
        return found

    def _words(self, size: tuple[int, int], other: tuple[int, int]) -> str:
        """A size in words: its blocks, and its width where it is not the only one."""
        width, depth = size
        unit = "pass" if self.shared else "block"
        plural = "es" if self.shared else "s"
        words = {0: f"no {unit}", 1: f"1 {unit}"}.get(depth, f"{depth} {unit}{plural}")
        return words if width == other[0] else f"{words} of {width}"

    def before(self, way: Way) -> int:
        """Steps of the small model before a growth."""
        return whole(way.grow_at * self.budgets[-1] / self.small.flops) if way.grow_at else 0

    def work(self, way: Way) -> tuple[float, int]:
        """FLOPs of all runs of a method, decays from every budget included, and how many chunks."""
        per_step, before = self.sized(way.size).flops, self.before(way)
        spent = before * self.small.flops
        steps = sum(leg.more + leg.decay for leg in legs(self.budgets, per_step, spent))
        runs = len(self.rates(way.kind).run) * len(self.grid.seeds)
        return (spent + steps * per_step) * runs, (before + steps) // CHUNK

    def train(self, way: Way, watch: Watch | None = None) -> list[Row]:
        """A row for each budget."""
        size, rates, before = self.sized(way.size), self.rates(way.kind), self.before(way)
        states, curve, about = self._begin(way, watch)
        begun = before * self.small.flops
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
                    "grow_at": begun,
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

    def _begin(self, way: Way, watch: Watch | None) -> tuple[PyTree, Curve, Row]:
        """The states that a method begins its last size with, and what came before."""
        if not way.grow_at:
            size = self.sized(way.size).prepared
            return self.grid.fresh(size, self.rates(way.kind).run), [], {"growths": 0}
        trunk, curve = self._trunk_until(self.before(way), watch)
        options = {"moments": way.moments, "rewarm": self.rewarm, "anneal": self.rewarm}
        big = self.grid.prepared(self.model(way.size), how=OPERATORS[way.method], **options)
        states = self.grid.grow(self.small.prepared, big, trunk)
        jump = self.large.measure(states) - self.small.measure(trunk)
        return states, list(curve), {"growths": 1, "jump": float(jump.mean())}

    def _trunk_until(self, steps: int, watch: Watch | None) -> tuple[PyTree, Curve]:
        """The small model's states after some steps, with the rates of growing runs."""
        done, states, curve = self._trunk
        if states is None or done > steps:
            states = self.grid.fresh(self.small.prepared, self.rates("growing").run)
            done, curve = 0, []
        if steps > done:
            seen = _recorded(curve, 0.0, self.small.flops, watch)
            states = self.small.train(states, steps - done, seen)
        self._trunk = steps, states, curve
        return states, curve


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
