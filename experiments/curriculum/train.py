"""A curriculum: the data grow while the model stays, by length, by batch, or both.

trainkit train curriculum
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import optax

import trainkit
from experiments.options import check
from experiments.progressive_lm.model import Transformer
from trainkit._core import units
from trainkit._core.run_files import write_whole
from trainkit._core.units import mean_spread
from trainkit.data import CharCorpus, shakespeare
from trainkit.data.staged import staged
from trainkit.progressive import Data, Stage, progressive, triggers


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare full batches of full length from the start with three curricula, at equal FLOPs.

    length: sequences of a quarter, a half and all of the length. batch: an eighth, a half and all
    of the batch. subset: a tenth, a half and all of the text. The validation loss is always over
    full sequences.
    """

    width: int = 32
    """Of the model."""
    depth: int = 2
    """Of the model."""
    length: int = 64
    """Characters of a full example."""
    batch_size: int = 16
    """Examples of a full batch."""
    steps: int = 300
    """The budget, in steps of full batches of full length."""
    learning_rate: float = 1e-2
    """Of AdamW."""
    seeds: int = 3
    """How many runs of each kind."""
    data: str | None = None
    """The folder that holds shakespeare/; the project's own by default."""
    out: str = "runs/curriculum"
    """The folder for the numbers."""

    def __post_init__(self) -> None:
        check(self, "width", "depth", "length", "batch_size", "steps", "learning_rate", "seeds")


def run(config: Config) -> list[dict[str, Any]]:
    """Trains all of them, prints and writes the numbers, and returns them."""
    text, validation, _ = shakespeare(config.data).split()
    rows: list[dict[str, Any]] = []
    for name, parts in curricula(config).items():
        found = [train(config, text, validation, parts, seed) for seed in range(config.seeds)]
        losses = [result.evaluation["loss"] for result in found]
        rows.append(
            {
                "method": name,
                "loss": float(np.mean(losses)),
                "losses": losses,
                "flops": float(np.mean([result.ledger.train for result in found])),
                "seconds": float(np.mean([result.fit.seconds for result in found])),
            }
        )
        last = rows[-1]
        print(
            f"{name:8} loss {mean_spread(last['losses'])}, {units.flops(last['flops'])}, "
            f"{last['seconds']:.1f} s",
            flush=True,
        )
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    content = {"config": dataclasses.asdict(config), "rows": rows}
    write_whole(out / "results.json", json.dumps(content, indent=2))
    return rows


def curricula(config: Config) -> dict[str, list[Data]]:
    """What the stages see of the data."""
    full = Data(subset=1.0, sequence_length=config.length, batch_size=config.batch_size)
    part = lambda **changes: dataclasses.replace(full, **changes)
    return {
        "none": [full],
        "length": [
            part(sequence_length=config.length // 4),
            part(sequence_length=config.length // 2),
            full,
        ],
        "batch": [
            part(batch_size=config.batch_size // 8),
            part(batch_size=config.batch_size // 2),
            full,
        ],
        "subset": [part(subset=0.1), part(subset=0.5), full],
    }


def train(
    config: Config, text: CharCorpus, validation: CharCorpus, parts: list[Data], seed: int
) -> Any:
    """One run: a quarter of the budget in each of the early stages, the rest in the last."""
    model = Transformer(84, config.width, config.depth)
    windows = validation.windows(config.length)
    held = windows[np.linspace(0, len(windows) - 1, 64).astype(np.int64)]
    full = build(model)
    tx = optax.adamw(config.learning_rate)
    batch = text.windows(config.length)[np.arange(config.batch_size)]
    step = trainkit.make_train_step(full, tx)
    budget = config.steps * trainkit.cost.count_flops(step.program, full.state(tx, batch), batch)
    return progressive(
        [
            Stage(model, triggers.flops(budget / 4) if part is not parts[-1] else None, data=part)
            for part in parts
        ],
        build,
        tx,
        staged(text, config.batch_size, seed=seed),
        [held],
        flops=budget,
        seed=seed,
        warmup=20,
        eval_every=100,
        progress=False,
    )


def build(module: Any) -> Any:
    """A module and its loss."""
    return trainkit.from_linen(module, optax.softmax_cross_entropy_with_integer_labels)
