"""The options of the experiment, and the methods that they ask for."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import optax

from experiments.options import check
from experiments.progressive_lm.grid import Corpus, Grid
from experiments.progressive_lm.methods import OPERATORS, Methods, Rates
from experiments.progressive_lm.phases import DECAY
from trainkit import transforms

RATES = dict.fromkeys(("adamw", "muon", "soap"), (0.003, 0.006, 0.012, 0.024, 0.048))
# Of AdamW in the setting of the defaults, at each budget the best by the mean of 3 other seeds:
# trainkit train progressive_lm --seed 100 --seeds 3 \
#     --rates 0.00075 0.0015 0.003 0.006 0.012 0.024 0.048
TRIED = (0.00075, 0.0015, 0.003, 0.006, 0.012, 0.024, 0.048)
TUNED = {
    "small": (0.003, 0.003),
    "1": (0.012, 0.012),
    "large": (0.012, 0.012),
    "growing": (0.012, 0.012),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Grow a transformer on characters, beside every size alone, at equal FLOPs.

    All runs end at each of several budgets, with a learning rate that has fallen to 0 and is the
    best of those tried for this method and budget, the same for all seeds. The small model's
    FLOPs are counted. With the defaults these rates are known, and were found on other seeds; in
    any other setting all rates are run, and the best are taken by the same seeds.
    """

    task: Literal["text", "topics", "sums"] = "text"
    """text: Shakespeare. topics: lines of four letters each, to be found in context. sums: modular
    arithmetic. The last two are generated."""
    operators: tuple[str, ...] = ("identity",)
    """Of identity, stack, interpose, middle, even, noise, zero_out, rms, stack_rms; or all."""
    optimizers: tuple[Literal["adamw", "muon", "soap"], ...] = ("adamw",)
    """adamw, muon, soap."""
    moments: tuple[Literal["carry", "reset"], ...] = ("carry",)
    """What becomes of the moments in a growth: carry, reset."""
    rewarm: int = 5
    """Steps over which new layers, and the rates of copied ones, come to the plain rate."""
    small: tuple[int, int] = (32, 0)
    """Width and depth that growing runs start with."""
    large: tuple[int, int] = (32, 2)
    """Width and depth that they end with."""
    controls: tuple[int, ...] = (1,)
    """Depths in between, each trained alone at the large one's width, as further baselines."""
    head_size: int = 8
    """Of attention; it divides all widths."""
    shared: bool = False
    """Whether all blocks of a model are one, so that depth counts the passes through it; they grow
    by --operators stack, which changes the function."""
    steps: int = 320
    """The largest budget, in steps of the large model."""
    budgets: tuple[float, ...] = (0.5, 1.0)
    """The budgets to end at, as shares of the largest."""
    grow_at: tuple[float, ...] = (0.03125,)
    """When to grow, as shares of the largest budget's FLOPs; each is a run of its own. The verdict
    is about the first."""
    length: int = 32
    """Characters of an example."""
    lengths: tuple[int, ...] = ()
    """Shorter lengths to begin with, the shortest first. Every method is then trained with them and
    without, and the verdict is about growing with them."""
    lengths_until: tuple[float, ...] = ()
    """When each of these lengths ends, as shares of the largest budget's FLOPs."""
    batch_size: int = 16
    """Examples a step."""
    seeds: int = 4
    """How many runs of each kind."""
    seed: int = 0
    """Of the first of them; the others follow."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from; by default as said above."""
    data: str | None = None
    """The folder that holds shakespeare/; the project's own by default."""
    out: str = "runs/progressive_lm"
    """The folder for the numbers and the report; the same command again trains what is missing."""
    overwrite: bool = False
    """Throw away the numbers that are in the output folder."""

    def __post_init__(self) -> None:
        check(
            self, "head_size", "steps", "budgets", "length", "batch_size", "seeds", "rates",
            least_0=("rewarm", "small", "large", "controls"),
        )  # fmt: skip
        unknown = sorted(set(self.operators) - {*OPERATORS, "all"})
        if unknown:
            raise ValueError(f"--operators has {unknown}; there are {', '.join(OPERATORS)}, all.")
        if self.shared and self.operators != ("stack",):
            raise ValueError(
                "--shared has no new layers that could keep the function: give --operators stack."
            )
        if self.small == self.large:
            raise ValueError(
                f"--small and --large are both {self.small}, so nothing would grow; make --large "
                "wider or deeper."
            )
        last = min(self.budgets) / max(self.budgets) * (1 - DECAY)
        wrong = [share for share in self.grow_at if not 0 < share < last]
        if wrong:
            raise ValueError(
                f"--grow-at has {wrong}; growing must come before the first decay, at {last:g} of "
                "the largest budget."
            )
        if len(self.lengths) != len(self.lengths_until):
            raise ValueError(
                f"--lengths has {len(self.lengths)} lengths and --lengths-until "
                f"{len(self.lengths_until)} shares; give one share for each length."
            )
        for name, values, end in (
            ("--lengths", self.lengths, self.length), ("--lengths-until", self.lengths_until, last)
        ):  # fmt: skip
            if not all(a < b for a, b in itertools.pairwise((0, *values, end))):
                raise ValueError(
                    f"{name} has {values}; they must be above 0, ascending and below {end:g}."
                )

    @property
    def is_tuned(self) -> bool:
        """Whether `TUNED` are the rates of this setting."""
        free = ("optimizers", "seeds", "seed", "rates", "data", "out", "overwrite")
        mine, there = dataclasses.asdict(self), dataclasses.asdict(Config())
        return not self.rates and all(mine[k] == there[k] for k in mine if k not in free)

    def rates_of(self, optimizer: str, kind: str) -> Rates:
        """The learning rates of a method."""
        if self.is_tuned and optimizer == "adamw":
            return Rates(tuple(dict.fromkeys(TUNED[kind])), TUNED[kind], TRIED)
        rates = self.rates or RATES[optimizer]
        return Rates(rates, None, rates)


def methods_of(config: Config, optimizer: str, corpus: Corpus) -> Methods:
    """The methods of one optimizer."""
    return Methods(
        Grid(
            corpus, transformation(optimizer), range(config.seed, config.seed + config.seeds),
            in_turn=optimizer == "soap",
        ),
        sizes=(config.small, config.large),
        controls=config.controls,
        head_size=config.head_size,
        steps=config.steps,
        shares=config.budgets,
        rewarm=config.rewarm,
        rates=lambda kind: config.rates_of(optimizer, kind),
        shared=config.shared,
        lengths=tuple(zip(config.lengths, config.lengths_until, strict=True)),
    )  # fmt: skip


def transformation(optimizer: str) -> optax.GradientTransformation:
    """The rule with a learning rate of 1, which the pace multiplies."""
    if optimizer == "adamw":
        return optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.01)
        )
    if optimizer == "soap":
        return transforms.soap(1.0, weight_decay=0.01)
    return optax.contrib.muon(1.0, weight_decay=0.01)
