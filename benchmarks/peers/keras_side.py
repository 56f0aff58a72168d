"""Keras on JAX, on the models of the tasks.

python -m benchmarks.peers.keras_side fit TASK
"""

from __future__ import annotations

import sys

import keras
import numpy as np
from keras import layers, ops

from benchmarks.peers.serving import Task, serve, trainer


def mlp(task: Task) -> keras.Model:
    """Dense layers with ReLU between them."""
    widths = [len(bias) for _, bias in task.layers()]
    hidden = [layers.Dense(width, activation="relu") for width in widths[:-1]]
    shape = keras.Input(task.x.shape[1:])
    return keras.Sequential([shape, layers.Flatten(), *hidden, layers.Dense(widths[-1])])


def cnn(task: Task) -> keras.Model:
    """Two convolutions, each pooled, and two dense layers."""
    parts: list = [keras.Input(task.x.shape[1:])]
    *convolutions, first, last = (len(bias) for _, bias in task.layers())
    for channels in convolutions:
        parts += [layers.Conv2D(channels, 3, padding="same", activation="relu")]
        parts += [layers.MaxPooling2D(2)]
    parts += [layers.Flatten(), layers.Dense(first, activation="relu"), layers.Dense(last)]
    return keras.Sequential(parts)


class Attention(layers.Layer):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, heads: int, angles: np.ndarray):
        super().__init__()
        size = width // heads
        self.project = [layers.EinsumDense("btd,dhe->bthe", (None, heads, size)) for _ in range(3)]
        self.out = layers.EinsumDense("bthe,hed->btd", (None, width))
        self.cos, self.sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        self.mask = np.tril(np.ones((len(angles), len(angles)), bool))[None]

    def rotate(self, x):
        even, odd = ops.split(x, 2, -1)
        cos, sin = self.cos, self.sin
        return ops.concatenate([even * cos - odd * sin, even * sin + odd * cos], -1)

    def call(self, x):
        q, k, v = (part(x) for part in self.project)
        mixed = ops.dot_product_attention(self.rotate(q), self.rotate(k), v, mask=self.mask[None])
        return self.out(mixed)


def transformer(task: Task) -> keras.Model:
    """A character transformer."""
    vocabulary, width = task.params["embed/embedding"].shape
    angles = task.angles(width // task.heads)
    depth = len({n.split("/")[0] for n in task.params if n.startswith("block_")})
    tokens = keras.Input(task.x.shape[1:], dtype="int32")
    x = layers.Embedding(vocabulary, width)(tokens)
    norm = lambda: layers.RMSNormalization(epsilon=1e-6)
    plain = lambda size, **more: layers.Dense(size, use_bias=False, **more)
    for _ in range(depth):
        x = x + Attention(width, task.heads, angles)(norm()(x))
        h = norm()(x)
        x = x + plain(width)(plain(3 * width, activation="silu")(h) * plain(3 * width)(h))
    return keras.Model(tokens, plain(vocabulary)(norm()(x)))


def weights(task: Task) -> list[np.ndarray]:
    """The initial parameters in the order of the layers above."""
    if task.name != "transformer":
        return [part for layer in task.layers() for part in layer]
    depth = len({n.split("/")[0] for n in task.params if n.startswith("block_")})
    names = ["embed/embedding"]
    for i in range(depth):
        names += [f"block_{i}/norm_attention/scale"]
        names += [f"block_{i}/attention/{x}/kernel" for x in ("query", "key", "value", "out")]
        names += [f"block_{i}/norm_mlp/scale"]
        names += [f"block_{i}/{x}/kernel" for x in ("gate", "up", "down")]
    return [task.params[name] for name in [*names, "norm/scale", "logits/kernel"]]


class KerasSide:
    """`fit` over the batches of a block."""

    def __init__(self, task: Task):
        self.task = task
        self.model = {"mlp": mlp, "cnn": cnn, "transformer": transformer}[task.name](task)
        found = {id(v): v for v in self.model.trainable_variables}
        given = weights(task)
        assert sorted(v.shape for v in found.values()) == sorted(w.shape for w in given)
        for variable, value in zip(self.ordered(), given, strict=True):
            variable.assign(value)
        self.model.compile(
            keras.optimizers.Adam(task.learning_rate, epsilon=1e-8),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def ordered(self) -> list:
        """The variables in the order of `weights`."""
        return [v for layer in self.model.layers for v in layer.trainable_variables]

    def train(self, order: np.ndarray) -> float:
        rows = order.ravel()
        result = self.model.fit(
            self.task.x[rows], self.task.y[rows],
            batch_size=order.shape[1], shuffle=False, verbose=0,
        )  # fmt: skip
        return float(result.history["loss"][-1])

    def accuracy(self) -> float:
        size = self.task.order.shape[1]
        n = len(self.task.test_x) // size * size
        x, y = self.task.test_x[:n], self.task.test_y[:n]
        return float(self.model.evaluate(x, y, batch_size=size, verbose=0)[1])


if __name__ == "__main__":
    serve(trainer(KerasSide, Task(sys.argv[2])))
