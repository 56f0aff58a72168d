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
from typing import Any

import jax
import numpy as np
import optax

import trainkit
from experiments.progressive_lm.config import TUNED, Config, methods_of, transformation
from experiments.progressive_lm.frontier import verdict_of
from experiments.progressive_lm.grid import Corpus
from experiments.progressive_lm.methods import OPERATORS, Methods, Row
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.page import page, said, table
from experiments.progressive_lm.phases import DECAY, Size, Way
from experiments.progressive_lm.progress import Progress
from experiments.progressive_lm.tasks import TASKS
from trainkit._core.run_files import REPORT, read_json, write_whole
from trainkit.loop.run_folder import RunFolder
from trainkit.progressive import Advice, Data, Stage, triggers
from trainkit.report.progress import width

RESULTS = "results.json"


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

    Of the first optimizer, with the first operator, at the full length or from each of the shorter
    `--lengths`. Learning rates are those of the defaults (of
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
    grid, (small, large) = methods.grid, methods.sizes

    def stage(size: Size, kind: str, length: int = config.length, **more: Any) -> Stage:
        words = "" if length == config.length else f", length {length}"
        return Stage(
            methods.model(size), name="width {}, depth {}".format(*size) + words,
            learning_rate=rate(kind), data=Data(sequence_length=length), **more,
        )  # fmt: skip

    growing: dict[str, Any] = {
        "how": OPERATORS[operator], "moments": config.moments[0], "rewarm": config.rewarm,
        "anneal": config.rewarm,
    }  # fmt: skip
    until = triggers.advised()
    return trainkit.progressive.advise(
        [
            stage(small, "growing", until=until),
            # Shorter examples first, with growth and without.
            *(stage(size, "growing", length, until=until)
              for length in config.lengths for size in (small, large)),
            stage(large, "growing", **growing),
        ],
        grid.recipe.build,
        grid.tx,
        grid.recipe.data,
        [grid.corpus.validation],
        flops=methods.budgets[-1],
        alone=[
            stage(way.size, way.kind if way.kind in tuned else "large")
            for way in methods.alone()
            if not way.lengths
        ],
        warmup=grid.recipe.warmup,
        decay=DECAY,
        seed=config.seed,
        **how,
    )  # fmt: skip


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
