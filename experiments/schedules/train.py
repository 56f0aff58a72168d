"""Three schedules on MNIST: by epoch boundaries, by the validation accuracy, by a step decay.

trainkit train schedules

Cost: about 20 seconds on two CPU cores. Expect, with 10,000 training images: 94.7 % test accuracy
under each schedule, within 0.2; the plateau rule (factor 0.2, patience 5) finds its own moments to
lower the rate, from the validation accuracy, inside the one compiled program.
The picture is runs/schedules/schedules.png.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trainkit.transforms as tt
from experiments.figures import save
from experiments.options import check
from trainkit import schedules
from trainkit.data import mnist, normalise, split
from trainkit.data.mnist import MEAN, STD

PLATEAU = schedules.reduce_on_plateau(
    factor=0.2, patience=5, min_delta=0.0, mode="max", min_scale=1e-3
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one network on part of MNIST under three learning-rate schedules."""

    epochs: int = 70
    """Passes over the training images."""
    images: int = 12000
    """How many images to use, a sixth of them for validation."""
    hidden: int = 64
    """Units of the one hidden layer."""
    batch_size: int = 100
    """Examples a step."""
    learning_rate: float = 0.1
    """Of momentum 0.9 descent, at its start."""
    seed: int = 0
    """Decides the initial parameters, the split and the order of the data."""
    data: str | None = None
    """The folder that holds mnist/; the project's own by default."""
    out: str = "runs/schedules"
    """The folder for the picture."""

    def __post_init__(self) -> None:
        check(self, "epochs", "images", "hidden", "batch_size", "learning_rate")


def network(key: jax.Array, hidden: int) -> dict[str, jax.Array]:
    """The parameters of 784 → hidden → 10, by He's initialisation."""
    one, two = jax.random.split(key)
    return {
        "w1": jax.random.normal(one, (784, hidden)) * (2 / 784) ** 0.5,
        "b1": jnp.zeros(hidden),
        "w2": jax.random.normal(two, (hidden, 10)) * (2 / hidden) ** 0.5,
        "b2": jnp.zeros(10),
    }


def logits(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def accuracy(p: dict[str, jax.Array], data: Any) -> jax.Array:
    x, y = data
    return jnp.mean((jnp.argmax(logits(p, x), axis=-1) == y).astype(jnp.float32))


def train(
    rate: Any, on_plateau: bool, train: Any, validation: Any, config: Config
) -> tuple[Any, dict[str, np.ndarray]]:
    """The whole run as one program; returns the parameters and a row an epoch."""
    tx = tt.named(opt=tt.momentum(rate, 0.9))
    x, y = (jnp.asarray(part) for part in train)
    steps = len(y) // config.batch_size

    def loss(p: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(p, x)), y[:, None], 1))

    def step(carry: Any, rows: jax.Array) -> Any:
        p, state = carry
        value, grads = jax.value_and_grad(loss)(p, x[rows], y[rows])
        updates, state = tx.update(grads, state, p)
        return (tt.apply_updates(p, updates), state), value

    def epoch(carry: Any, key: jax.Array) -> Any:
        p, state, plateau = carry
        order = jax.random.permutation(key, len(y))[: steps * config.batch_size]
        (p, state), losses = jax.lax.scan(step, (p, state), order.reshape(steps, -1))
        used = tt.get(state, "learning_rate")
        score = accuracy(p, validation)
        plateau = PLATEAU.update(plateau, score)
        if on_plateau:
            state = tt.set(state, "learning_rate", config.learning_rate * plateau.scale)
        row = {"rate": used, "loss": jnp.mean(losses), "accuracy": score}
        return (p, state, plateau), row

    @jax.jit
    def whole(key: jax.Array) -> Any:
        p = network(key, config.hidden)
        keys = jax.random.split(jax.random.fold_in(key, 1), config.epochs)
        (p, _, _), rows = jax.lax.scan(epoch, (p, tx.init(p), PLATEAU.init()), keys)
        return p, rows

    p, rows = whole(jax.random.key(config.seed))
    return p, jax.device_get(rows)


def run(config: Config) -> dict[str, float]:
    """Trains under each schedule, prints a table, draws it; returns schedule -> test accuracy."""
    for name in ("epochs", "images", "hidden", "batch_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1.")
    images, test = mnist(config.data)
    parts = split(
        jax.tree.map(lambda a: a[: config.images], images), validation=1 / 6, seed=config.seed
    )
    as_rows = lambda d: (
        np.asarray(normalise(jnp.asarray(d["image"]), MEAN, STD)).reshape(len(d["label"]), -1),
        d["label"],
    )
    training, validation, testing = (as_rows(d) for d in (parts.train, parts.validation, test))
    per_epoch = len(training[1]) // config.batch_size
    if per_epoch < 1:
        raise ValueError(f"--batch-size {config.batch_size} is more than the training images.")
    rate = config.learning_rate
    third, two_thirds = (per_epoch * (config.epochs * k // 3) for k in (1, 2))
    choices = {
        "piecewise constant": (
            schedules.piecewise_constant([third, two_thirds], [rate, rate / 5, rate / 25])
            if config.epochs >= 3
            else rate
        ),
        "reduce on plateau": rate,
        "step decay": schedules.step(rate, 0.1, every=30 * per_epoch),
    }
    found, rows = {}, {}
    print(f"{len(training[1])} images, {config.epochs} epochs of {per_epoch} steps")
    print(f"  {'schedule':<20}{'last rate':>12}{'validation':>12}{'test':>8}")
    for name, schedule in choices.items():
        p, rows[name] = train(schedule, name == "reduce on plateau", training, validation, config)
        found[name] = float(accuracy(p, testing))
        last = {k: v[-1] for k, v in rows[name].items()}
        print(f"  {name:<20}{last['rate']:>12.2g}{last['accuracy']:>12.2%}{found[name]:>8.2%}")
    print(f"Picture: {draw(rows, Path(config.out)).resolve()}")
    return found


def draw(rows: dict[str, dict[str, np.ndarray]], out: Path) -> Path:
    """Rate, training loss and validation accuracy by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for name, row in rows.items():
        epochs = np.arange(1, len(row["rate"]) + 1)
        for ax, key in zip(axes, ("rate", "loss", "accuracy"), strict=True):
            ax.plot(epochs, row[key], label=name, lw=1.3)
    titles = ("learning rate", "training loss", "validation accuracy")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="epoch")
    axes[0].set_yscale("log")
    axes[1].set_yscale("log")
    axes[0].legend(frameon=False)
    file = out / "schedules.png"
    save(figure, file)
    return file
