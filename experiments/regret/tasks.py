"""Small tasks to try advice on: images, text, tables; MLPs and transformers; three optimizers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

import trainkit
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.tasks import TASKS as TEXTS
from trainkit.data import CharCorpus, Sampler, mnist
from trainkit.data.mnist import MEAN, STD
from trainkit.data.staged import staged
from trainkit.progressive import Data, Stage

PyTree = Any
HELD = 4096  # examples to evaluate on
LENGTH = 16  # characters of an example


class MLP(nn.Module):
    """Dense layers with ReLU between them: [B, features] -> [B, outputs]."""

    hidden: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{number}")(x))
        return nn.Dense(self.outputs, name="out")(x)


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to learn, and the sizes to learn it with.

    Attributes:
      name: in tables.
      data: () -> (training set, validation batch); of a text, the training set is the text.
      sizes: models, the smallest first; growing goes from the first to the last, the others are
        trained alone.
      tx: the optimizer.
      batch: examples a step.
      loss: of the outputs and the batch.
      lengths: characters of an example, for each of the sizes.
    """

    name: str
    data: Callable[[], tuple[Any, PyTree]]
    sizes: Sequence[Any]
    tx: optax.GradientTransformation
    batch: int = 32
    loss: Callable[..., Any] = optax.softmax_cross_entropy_with_integer_labels
    lengths: Sequence[int | None] = (None, None, None)

    def build(self, module: Any) -> Any:
        """A model of the task."""
        return trainkit.from_linen(module, self.loss)

    def stages(self) -> list[Stage]:
        """All sizes."""
        pairs = zip(self.sizes, self.lengths, self.names(), strict=True)
        return [Stage(size, data=Data(sequence_length=n), name=name) for size, n, name in pairs]

    def names(self) -> list[str]:
        """What tells the sizes apart.

        >>> TASKS[1].names(), TASKS[-1].names()
        (['24', '24-24', '24-24-24'], ['length 4', 'length 8', 'length 16'])
        """
        if hasattr(self.sizes[0], "hidden"):
            return ["-".join(map(str, model.hidden)) for model in self.sizes]
        if len(set(self.lengths)) > 1:
            return [f"length {length}" for length in self.lengths]
        if len({model.depth for model in self.sizes}) > 1:
            return [f"{model.depth} blocks" for model in self.sizes]
        return [f"width {model.width}" for model in self.sizes]

    def loader(self) -> tuple[Callable[[int], Callable[[Data], Sampler]], list[PyTree]]:
        """The training data, as seed -> `Data` -> `Sampler`, and the validation batches."""
        train, held = self.data()
        if isinstance(train, CharCorpus):
            return lambda seed: staged(train, self.batch, seed=seed), [held]
        return lambda seed: lambda _: Sampler(train, self.batch, seed=seed), [held]


def split(x: np.ndarray, label: np.ndarray) -> tuple[PyTree, PyTree]:
    """The last examples are held out."""
    part = lambda where: {"x": x[where].astype(np.float32), "label": label[where]}
    return part(slice(None, -HELD)), part(slice(-HELD, None))


def digits() -> tuple[PyTree, PyTree]:
    """MNIST in 7 × 7 pixels."""
    images = mnist()[0]
    small = images["image"].reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49)
    return split((small / 255 - MEAN) / STD, images["label"])


def teacher(classes: int, depth: int) -> tuple[PyTree, PyTree]:
    """A table that a random ReLU network has labelled; `classes` 0: a number is to be predicted."""
    random = np.random.default_rng(depth)
    h = x = random.normal(size=(60_000, 12))
    for _ in range(depth):
        h = np.maximum(h @ random.normal(size=(h.shape[1], 24)) * (2 / h.shape[1]) ** 0.5, 0)
    h = h - h.mean(0)
    out = h @ random.normal(size=(24, max(classes, 1)))
    if classes:
        return split(x, out.argmax(1).astype(np.int32))
    return split(x, (out[:, 0] / out[:, 0].std()).astype(np.float32))


def parity() -> tuple[PyTree, PyTree]:
    """Sparse parity: three of twelve bits decide."""
    bits = np.random.default_rng(0).integers(0, 2, (60_000, 12))
    return split(2.0 * bits - 1, (bits[:, :3].sum(1) % 2).astype(np.int32))


def modular() -> tuple[PyTree, PyTree]:
    """(a + b) mod 11 of two one-hot digits, one answer in ten of which is drawn at random."""
    random = np.random.default_rng(0)
    a, b = random.integers(0, 11, (2, 60_000))
    label = (a + b) % 11
    noisy = np.where(random.uniform(size=len(label)) < 0.1, random.integers(0, 11, 60_000), label)
    x = np.concatenate([np.eye(11)[a], np.eye(11)[b]], axis=1)
    return split(x, noisy.astype(np.int32))


def text(name: str, length: int = LENGTH) -> tuple[Any, PyTree]:
    """A text, and windows of another part of it."""
    train, held, _ = TEXTS[name](None).split()
    windows = held.windows(length)
    places = np.linspace(0, len(windows) - 1, HELD // length).astype(np.int64)
    return train, windows[places]


def rings() -> tuple[PyTree, PyTree]:
    """Six rings around the origin of eight dimensions, alternately of three classes."""
    x = np.random.default_rng(0).normal(size=(60_000, 8))
    ring = np.searchsorted([1.9, 2.4, 2.75, 3.1, 3.6], np.linalg.norm(x, axis=1))
    return split(x, (ring % 3).astype(np.int32))


def squared(outputs: jax.Array, label: jax.Array) -> jax.Array:
    """The squared error of one output."""
    return (outputs[..., 0] - label) ** 2


SYMBOLS = {"text": 84, "topics": 27, "sums": 13}


def transformers(name: str, depths: Sequence[int]) -> list[Transformer]:
    """Of width 16."""
    return [Transformer(SYMBOLS[name], 16, depth, 8) for depth in depths]


def reads(
    name: str,
    data: Callable[[], tuple[Any, PyTree]],
    sizes: Sequence[Transformer],
    tx: optax.GradientTransformation,
    lengths: Sequence[int] = (LENGTH, LENGTH, LENGTH),
) -> Task:
    """A task on a text, in batches of eight."""
    return Task(name, data, sizes, tx, batch=8, lengths=lengths)


def wide(outputs: int, *widths: int) -> list[MLP]:
    """One hidden layer of each width."""
    return [MLP((width,), outputs) for width in widths]


def deep(outputs: int, width: int, *depths: int) -> list[MLP]:
    """Hidden layers of one width, of each number."""
    return [MLP((width,) * depth, outputs) for depth in depths]


ADAM, SGD = optax.adam(3e-3), optax.sgd(0.05, momentum=0.9)
MUON = optax.contrib.muon(0.01)
CLASSES = functools.partial(teacher, 5, 2)
NUMBER = functools.partial(teacher, 0, 2)
TEXT, TOPICS, SUMS = (functools.partial(text, name) for name in ("text", "topics", "sums"))

TASKS = [
    Task("digits, width, Adam", digits, wide(10, 16, 32, 64), ADAM),
    Task("digits, depth, Adam", digits, deep(10, 24, 1, 2, 3), ADAM),
    Task("digits, width, SGD", digits, wide(10, 16, 32, 64), SGD),
    Task("table, width, Adam", CLASSES, wide(5, 16, 32, 64), ADAM),
    Task("table, depth, Adam", CLASSES, deep(5, 24, 1, 2, 3), ADAM),
    Task("table, width, Muon", CLASSES, wide(5, 16, 32, 64), MUON),
    Task("regression, width, Adam", NUMBER, wide(1, 16, 32, 64), ADAM, loss=squared),
    Task("regression, depth, Adam", NUMBER, deep(1, 24, 1, 2, 3), ADAM, loss=squared),
    Task("parity, width, Adam", parity, wide(2, 16, 32, 64), ADAM),
    Task("modular, width, Adam", modular, wide(11, 16, 32, 64), ADAM),
    Task("modular, depth, SGD", modular, deep(11, 24, 1, 2, 3), SGD),
    reads("text, depth, Adam", TEXT, transformers("text", (0, 1, 2)), ADAM),
    reads("topics, depth, Adam", TOPICS, transformers("topics", (0, 1, 2)), ADAM),
    reads("sums, depth, Adam", SUMS, transformers("sums", (0, 1, 2)), ADAM),
    # Written before the rule that takes the expected best; nothing was chosen on them.
    reads("text, depth, Muon", TEXT, transformers("text", (0, 1, 2)), MUON),
    reads("text, width, Adam", TEXT, [Transformer(84, n, 1, 8) for n in (8, 16, 32)], ADAM),
    Task("digits, depth, Muon", digits, deep(10, 24, 1, 2, 3), MUON),
    Task("rings, depth, Adam", rings, deep(3, 24, 1, 2, 3), ADAM),
    Task("regression, width, SGD", NUMBER, wide(1, 16, 32, 64), SGD, loss=squared),
    Task("modular, depth, Adam", modular, deep(11, 24, 1, 2, 3), ADAM),
    # The data grow, the model stays.
    reads("text, length, Adam", TEXT, transformers("text", (1, 1, 1)), ADAM, (4, 8, LENGTH)),
    reads("topics, length, Adam", TOPICS, transformers("topics", (1, 1, 1)), ADAM, (4, 8, LENGTH)),
]
