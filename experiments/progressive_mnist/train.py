"""A network that grows while it learns the digits, where growing does not pay.

trainkit train progressive_mnist                 one hidden layer of 64 becomes two, 128 and 256
trainkit train progressive_mnist --model cnn     a quarter of the channels becomes all of them
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

import trainkit
from experiments.options import check
from experiments.progressive_mnist.models import CNN, MLP
from experiments.progressive_mnist.results import Seed, report
from trainkit.data import Sampler, mnist, normalise, split
from trainkit.data.mnist import MEAN, STD
from trainkit.progressive import Advice, Probe, Stage, progressive, triggers
from trainkit.progressive.run import ProgressiveResult

MODELS = {
    "mlp": (MLP((64,)), MLP((128,)), MLP((128, 256))),
    "cnn": (CNN((8, 16), 32), CNN((16, 32), 64), CNN((32, 64), 128)),
}
# For the MLP at its own budget the best of `TRIED` over three seeds (`--tune`); the CNN's are
# Adam's usual rate, not tuned.
RATES = {
    "mlp": {"progressive": 2e-3, "small": 1e-3, "large": 2e-3},
    "cnn": {"progressive": 1e-3, "small": 1e-3, "large": 1e-3},
}
TRIED = (1e-3, 2e-3, 3e-3)
# Of the large model, as passes over the training images.
PASSES = {"mlp": 6.0, "cnn": 1.0}


@dataclasses.dataclass(frozen=True)
class Config:
    """Grow a network on the bundled MNIST digits, and compare it with training from scratch.

    All three runs get the same FLOPs: the growing one, the smallest model alone, and the largest
    from scratch, each with its own learning rate that falls to 0 at the end; tuned for the MLP as
    it is by default, or by --tune. What is said of growing is said over the seeds, or not at all.
    """

    model: Literal["mlp", "cnn"] = "mlp"
    """mlp: hidden layers 64, then 128, then 128 and 256. cnn: channels 8 and 16, doubled twice."""
    passes: float | None = None
    """The budget: as many FLOPs as the largest model needs for this many passes over the data."""
    batch_size: int = 128
    """Examples a step."""
    how: str = "preserve"
    """The operator that grows: preserve, even, noise, zero_out, rms, stack, ..."""
    slope: float = 0.004
    """A plateau is when the validation loss falls by less than this an evaluation."""
    patience: int = 4
    """How many evaluations the slope is taken over."""
    probe: bool = False
    """Before growing, try growing, not growing and only lowering the learning rate."""
    baselines: bool = True
    """Train the small and the large model too."""
    tune: bool = False
    """Find the learning rate of each run first, over all seeds, which takes some minutes."""
    seed: int = 0
    """Decides the initial parameters, the order of the data and the growths."""
    seeds: int = 5
    """How many times to do it all, with this seed and those that follow it."""
    data: str | None = None
    """The folder that holds mnist/; the project's own by default."""
    out: str | None = None
    """The folder for metrics, checkpoints and report; runs/progressive_mnist by default."""
    overwrite: bool = False
    """Throw away the runs that are in the output folder."""
    resume: Literal["same run", "new hyperparameters", "new data"] = "same run"
    """How runs that are there go on: as they were begun, or with the hyper-parameters or data given
    now, which a difference is otherwise refused for."""

    def __post_init__(self) -> None:
        passes = () if self.passes is None else ("passes",)
        check(self, "batch_size", "patience", "slope", "seeds", *passes)

    @property
    def tuned(self) -> bool:
        """Whether `RATES` are the best of `TRIED` in this setting."""
        own = ("tune", "baselines", "seed", "seeds", "data", "out", "overwrite")
        passes = PASSES["mlp"] if self.passes is None else self.passes
        mine = dataclasses.asdict(dataclasses.replace(self, passes=passes))
        there = dataclasses.asdict(Config(passes=PASSES["mlp"]))
        return all(mine[name] == there[name] for name in mine if name not in own)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the runs of one experiment share."""

    config: Config
    out: Path
    train: Any
    validation: Sequence[Any]
    test: Sequence[Any]
    flops: float


class Stopped(Exception):
    """A run was interrupted before its end, and nothing can be compared."""


def run(config: Config) -> dict[str, Any]:
    """Trains, compares, writes the reports and returns the numbers."""
    where = Path(config.out or f"runs/progressive_mnist{'' if config.model == 'mlp' else '-cnn'}")
    rates = dict(RATES[config.model])
    try:
        if config.tune:
            rates = {name: tuned(config, where, name) for name in runs_of(config)}
            print("Learning rates:", ", ".join(f"{name} {rate:g}" for name, rate in rates.items()))
        seeds = {}
        for seed in range(config.seed, config.seed + config.seeds):
            once = dataclasses.replace(config, seed=seed)
            setting = setting_of(once, where / f"seed-{seed}")
            stages = runs_of(once)
            results = {name: train(setting, name, stages[name], rates[name]) for name in stages}
            title = f"Growing on MNIST, {config.model.upper()}, seed {seed}"
            seeds[f"seed {seed}"] = Seed(title, setting.out, setting.test, results)
    except Stopped:
        raise SystemExit(130) from None
    # A run that went on with new hyper-parameters did not have these rates all the time.
    tried = TRIED if config.tuned or (config.tune and config.resume == "same run") else ()
    return report(where, seeds, rates, tried)


def setting_of(config: Config, where: Path) -> Setting:
    """Data and budget."""
    images, test = mnist(config.data)
    parts = split(images, validation=1 / 12, seed=config.seed)
    passes = PASSES[config.model] if config.passes is None else config.passes
    setting = Setting(config, where, parts.train, batches(parts.validation), batches(test), 0.0)
    each = flops_per_example(setting, MODELS[config.model][-1])
    return dataclasses.replace(setting, flops=passes * len(parts.train["label"]) * each)


def runs_of(config: Config) -> dict[str, list[Stage]]:
    """The stages of each run: the growing one, the small model alone, the large from scratch."""
    small, _, large = MODELS[config.model]
    trigger = triggers.plateau("loss", slope=config.slope, patience=config.patience)
    growing = [
        Stage(
            model,
            trigger if model is not large else None,
            config.how,
            rewarm=50,
            anneal=50,
            name=described(model),
        )
        for model in MODELS[config.model]
    ]
    alone = {
        name: [Stage(m, name=described(m))] for name, m in (("small", small), ("large", large))
    }
    return {"progressive": growing, **(alone if config.baselines else {})}


def programs(config: Config, **where: Any) -> dict[str, Any]:
    """The steps and growths of the growing run, with shapes, for `trainkit plan`."""
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, 28, 28, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), np.int32),
    }
    stages = runs_of(config)["progressive"]
    return trainkit.progressive.programs(
        stages,
        build,
        optax.adam(1e-3),
        lambda _: batch,
        functools.partial(trainkit.make_train_step, **where, donate=True),
    )


def advise(config: Config, **how: Any) -> Advice:
    """Whether to grow at this budget, for `trainkit advise`."""
    setting, stages, rates = setting_of(config, Path()), runs_of(config)["progressive"], RATES
    own = rates[config.model]
    until = lambda stage: stage.until and triggers.advised()
    # The first size and the last have rates of their own, those in between that of growing.
    alone = [
        dataclasses.replace(stage, learning_rate=own[kind] / own["progressive"])
        for stage, kind in zip(stages, ("small", "progressive", "large"), strict=True)
    ]
    return trainkit.progressive.advise(
        [dataclasses.replace(stage, until=until(stage)) for stage in stages],
        build,
        optax.adam(own["progressive"]),
        Sampler(setting.train, config.batch_size, seed=config.seed),
        setting.validation[:1],
        flops=setting.flops,
        alone=alone,
        warmup=50,
        seed=config.seed,
        **how,
    )


def train(
    setting: Setting, name: str, stages: Sequence[Stage], rate: float, trial: bool = False
) -> ProgressiveResult:
    """One run with the budget of all."""
    config = setting.config
    if not trial:
        print(f"\n{name}: {' → '.join(str(described(stage.model)) for stage in stages)}")
    steps_per_epoch = len(setting.train["label"]) // config.batch_size
    identity = {"experiment": "progressive_mnist", "run": name, "learning_rate": rate} | {
        key: value
        for key, value in dataclasses.asdict(config).items()
        if key not in ("out", "overwrite", "resume", "tune", "baselines", "seeds")
    }
    result = progressive(
        stages,
        build,
        optax.adam(rate),
        Sampler(setting.train, config.batch_size, seed=config.seed),
        setting.validation,
        flops=setting.flops,
        probe=Probe(unroll=config.model == "cnn") if config.probe and len(stages) > 1 else None,
        seed=config.seed,
        warmup=50,
        eval_every=max(1, steps_per_epoch // 3),
        log_every=max(1, steps_per_epoch // 16),
        out=None if trial else setting.out / name,
        config=identity,
        overwrite=config.overwrite,
        resume=config.resume,
        progress=not trial,
        report=False,
    )
    if not result.history[-1]["finished"]:
        print(f"No comparison: {name} is not finished ({result.ended}).")
        raise Stopped
    return result


def tuned(config: Config, where: Path, name: str) -> float:
    """The learning rate whose whole runs end with the lowest validation loss, over all seeds."""
    losses = dict.fromkeys(TRIED, 0.0)
    for seed in range(config.seed, config.seed + config.seeds):
        once = dataclasses.replace(config, seed=seed)
        setting, stages = setting_of(once, where), runs_of(once)[name]
        for rate in TRIED:
            losses[rate] += train(setting, name, stages, rate, True).evaluation["loss"]
    print(f"{name}:", ", ".join(f"{x / config.seeds:.4f} at {k:g}" for k, x in losses.items()))
    # A rate with which a run diverged is not the best.
    return min(losses, key=lambda rate: (not math.isfinite(losses[rate]), losses[rate]))


def build(module: Any) -> Any:
    """A module and its loss, as pure functions."""
    return trainkit.from_linen(
        module,
        optax.softmax_cross_entropy_with_integer_labels,
        inputs=lambda batch: normalise(batch["image"], MEAN, STD),
    )


def flops_per_example(setting: Setting, module: Any) -> float:
    """Training FLOPs of an example, counted from the program."""
    from trainkit.cost import count_flops

    model, tx, size = build(module), optax.adam(1e-3), setting.config.batch_size
    batch = {name: leaf[:size] for name, leaf in setting.train.items()}
    step = trainkit.make_train_step(model, tx)
    return count_flops(step.program, model.state(tx, batch), batch) / size


def batches(data: Any, size: int = 1000) -> list[Any]:
    """All of the data once, in parts that fit."""
    return [
        {name: leaf[i : i + size] for name, leaf in data.items()}
        for i in range(0, len(data["label"]), size)
    ]


def described(module: Any) -> str:
    """A model in a few characters."""
    if isinstance(module, MLP):
        return "-".join(map(str, module.hidden))
    return "-".join(map(str, (*module.channels, module.dense)))
