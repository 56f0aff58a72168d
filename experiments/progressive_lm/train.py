"""Growing a character transformer, where growing pays: at equal FLOPs, beside every size alone.

trainkit train progressive_lm                what `make run` runs: no block, then two
trainkit train progressive_lm --operators all --optimizers adamw muon --moments carry reset \\
    --small 8 3 --large 16 6 --grow-at 0.25 --budgets 0.5 1 --steps 240 --batch-size 8
"""

from __future__ import annotations

import dataclasses
import functools
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

import trainkit
from experiments.options import check
from experiments.progressive_lm.frontier import verdict_of
from experiments.progressive_lm.grid import Corpus, Grid
from experiments.progressive_lm.methods import DECAY, OPERATORS, Methods, Rates, Row, Way
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.page import page, said, table
from experiments.progressive_lm.progress import Progress
from experiments.progressive_lm.tasks import TASKS
from trainkit import transforms
from trainkit._core.run_files import REPORT, read_json, write_whole
from trainkit.loop.run_folder import RunFolder
from trainkit.progressive import Advice, Stage, triggers
from trainkit.report.progress import width

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
RESULTS = "results.json"


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


def programs(config: Config, **where: Any) -> dict[str, Any]:
    """The steps and the growth of one growing run, with shapes, for `trainkit plan`."""
    vocabulary = len(TASKS[config.task](config.data).vocabulary)
    small, large = (
        Stage(
            Transformer(vocabulary, width, depth, config.head_size, config.shared),
            until,
            "identity" if config.operators[0] == "all" else config.operators[0],
            name=f"width {width}, depth {depth}",
        )
        for (width, depth), until in ((config.small, triggers.steps(1)), (config.large, None))
    )
    tokens = jax.ShapeDtypeStruct((config.batch_size, config.length), np.int32)
    return trainkit.progressive.programs(
        [small, large],
        lambda m: trainkit.from_linen(m, optax.softmax_cross_entropy_with_integer_labels),
        transformation(config.optimizers[0]),
        lambda _: {"inputs": tokens, "targets": tokens},
        functools.partial(trainkit.make_train_step, **where, donate=True),
    )


def advise(config: Config, **how: Any) -> Advice:
    """Whether to grow at the largest budget, for `trainkit advise`.

    Of the first optimizer, with the first operator. Learning rates are those of the defaults (of
    Muon the middle one), or the one of `--rates`.
    """
    optimizer = config.optimizers[0]
    corpus = Corpus.of(TASKS[config.task](config.data), config.length, config.batch_size)
    methods = methods_of(config, optimizer, corpus)
    tuned = {kind: TUNED[kind][-1] for kind in TUNED} if optimizer == "adamw" else {}
    if len(config.rates) > 1:
        raise ValueError("--rates has several; advice is about one: give the best of them.")
    rate = lambda kind: (*config.rates, tuned.get(kind, 0.012))[0]
    operator = "identity" if config.operators[0] == "all" else config.operators[0]
    stage = lambda way, kind, **more: Stage(
        methods.model(way), name="width {}, depth {}".format(*way), learning_rate=rate(kind), **more
    )
    return trainkit.progressive.advise(
        [
            stage(config.small, "growing", until=triggers.advised()),
            stage(
                config.large,
                "growing",
                how=OPERATORS[operator],
                moments=config.moments[0],
                rewarm=config.rewarm,
                anneal=config.rewarm,
            ),
        ],
        methods.grid.recipe.build,
        methods.grid.tx,
        corpus.sampler,
        [corpus.validation],
        flops=methods.budgets[-1],
        alone=[
            stage(way.size, way.kind if way.kind in tuned else "large") for way in methods.alone()
        ],
        warmup=methods.grid.recipe.warmup,
        decay=DECAY,
        seed=config.seed,
        **how,
    )


def run(config: Config) -> dict[str, Any]:
    """Trains what is missing, prints and writes the numbers, and returns them."""
    names = list(OPERATORS) if "all" in config.operators else list(config.operators)
    out = Path(config.out)
    options = dataclasses.asdict(config).items()
    # As JSON gives it back.
    identity = json.loads(json.dumps({k: v for k, v in options if k not in ("out", "overwrite")}))
    corpus = Corpus.of(TASKS[config.task](config.data), config.length, config.batch_size)
    with RunFolder.claim(out, identity, overwrite=config.overwrite):
        if config.overwrite:
            (out / RESULTS).unlink(missing_ok=True)
        content = {"config": identity, "verdict": {}, "rows": [], **read_json(out / RESULTS)}
        rows: list[Row] = content["rows"]
        for optimizer in config.optimizers:
            methods = methods_of(config, optimizer, corpus)
            growing = methods.growing(names, config.moments, config.grow_at)
            ways = [*methods.alone(), *growing]
            try:
                for complete in compare(methods, optimizer, ways, rows):
                    content["verdict"][optimizer] = verdict_of(rows, optimizer, complete)
                    write_whole(out / RESULTS, json.dumps(content, indent=2))
                    write_whole(out / REPORT, page(content))
            except KeyboardInterrupt:
                print("\nStopped. The same command goes on after the last method that is finished.")
                raise SystemExit(130) from None
    table(rows)
    for optimizer, found in content["verdict"].items():
        name = f"{optimizer}: " if len(config.optimizers) > 1 else ""
        print(textwrap.fill(name + found["sentence"], width()))
    print(f"Report: {out / REPORT}")
    return content


def methods_of(config: Config, optimizer: str, corpus: Corpus) -> Methods:
    """The methods of one optimizer."""
    return Methods(
        Grid(corpus, transformation(optimizer), range(config.seed, config.seed + config.seeds)),
        sizes=(config.small, config.large),
        controls=config.controls,
        head_size=config.head_size,
        steps=config.steps,
        shares=config.budgets,
        rewarm=config.rewarm,
        rates=lambda kind: config.rates_of(optimizer, kind),
        shared=config.shared,
    )


def compare(
    methods: Methods, optimizer: str, ways: Sequence[Way], rows: list[Row]
) -> Iterator[bool]:
    """Trains the methods that have no rows yet; says after each whether that was all."""
    there = {row["name"] for row in rows if row["optimizer"] == optimizer}
    missing = [way for way in ways if way.name not in there]
    if not missing:
        yield True
        return
    work = {way: methods.work(way) for way in missing}
    with Progress(sum(flops for flops, _ in work.values()), len(missing)) as progress:
        for way, (flops, chunks) in work.items():
            progress.begin(way.name, flops / chunks)
            found = methods.train(way, progress)
            rows += [{"optimizer": optimizer, **row} for row in found]
            progress.say(said(found[-1]))
            yield way is missing[-1]


def transformation(optimizer: str) -> optax.GradientTransformation:
    """The rule with a learning rate of 1, which the pace multiplies."""
    if optimizer == "adamw":
        return optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.01)
        )
    if optimizer == "soap":
        return transforms.soap(1.0, weight_decay=0.01)
    return optax.contrib.muon(1.0, weight_decay=0.01)
