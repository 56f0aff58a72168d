"""What all sides train: the same model, initial parameters, data, batches and optimizer.

The models are those of `experiments`, without dropout: then all sides compute the same numbers, and
it is checked that they do. Sizes, learning rates and accuracies are in `TASKS`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from experiments.mnist.models import CNN, MLP
from experiments.progressive_lm.model import Transformer
from trainkit.data import mnist, normalise, shakespeare
from trainkit.data.mnist import MEAN, STD

WIDTH, DEPTH, LENGTH, HEAD = 128, 2, 64, 16
VOCABULARY = 84  # of the bundled text


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of one task.

    Attributes:
      batch_size: examples a step.
      learning_rate: of Adam, constant.
      accuracy: what the time is measured to, on the test data, which are looked at `every` so
        many steps.
      limit: the most steps.
      test: test examples that count.
      block: steps of a block, some tenths of a second.
      seeds: how often all of it is done, in fresh processes.
    """

    batch_size: int
    learning_rate: float
    accuracy: float
    every: int
    limit: int
    test: int
    block: int
    seeds: int


# One seed where all sides take minutes to start and to get there; then more rounds of blocks.
TASKS = {
    "mlp": Settings(128, 1e-3, 0.97, 100, 2000, 9984, 100, 3),
    "cnn": Settings(128, 1e-3, 0.95, 25, 500, 1920, 8, 1),
    "transformer": Settings(32, 3e-3, 0.33, 25, 500, 512, 4, 1),
}


class WithoutDropout(nn.Module):
    """A model in evaluation mode, as it is trained here."""

    inner: nn.Module

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.inner(x, train=False)


def network(name: str) -> nn.Module:
    """The Flax model of a task."""
    if name == "transformer":
        return Transformer(VOCABULARY, WIDTH, DEPTH, HEAD)
    return WithoutDropout(MLP() if name == "mlp" else CNN())


def arrays(name: str, test: int) -> dict[str, np.ndarray]:
    """Training and test data in memory, as float32 images or int32 characters."""
    if name == "transformer":
        parts = shakespeare().split()[:2]
        whole = [part.windows(LENGTH, LENGTH) for part in parts]
        (x, y), (test_x, test_y) = (
            (part["inputs"], part["targets"])
            for part in (whole[0][np.arange(len(whole[0]))], whole[1][np.arange(test)])
        )
        return {"x": x, "y": y, "test_x": test_x, "test_y": test_y}
    train, held = mnist()
    images = lambda data: np.asarray(normalise(data["image"], MEAN, STD), np.float32)
    return {
        "x": images(train), "y": train["label"],
        "test_x": images(held)[:test], "test_y": held["label"][:test],
    }  # fmt: skip


def write(path: Path, name: str, seed: int) -> Settings:
    """Writes a task with the initial parameters and the order of batches of a seed."""
    settings = TASKS[name]
    data = arrays(name, settings.test)
    params = network(name).init(jax.random.key(seed), data["x"][:1])["params"]
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    drawn = np.random.default_rng(seed)
    epochs = -(-settings.limit * settings.batch_size // len(data["x"])) + 1
    order = np.concatenate([drawn.permutation(len(data["x"])) for _ in range(epochs)])
    steps = len(order) // settings.batch_size
    np.savez(
        path, name=name, heads=WIDTH // HEAD, learning_rate=settings.learning_rate, **data,
        order=order[: steps * settings.batch_size].reshape(steps, -1),
        **{key: np.asarray(value) for key, value in flat.items()},
    )  # fmt: skip
    return settings
