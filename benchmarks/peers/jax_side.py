"""trainkit, and a hand-written Flax and Optax step, on the experiments' models.

python -m benchmarks.peers.jax_side trainkit TASK
"""

from __future__ import annotations

import sys
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import optax

import trainkit
from benchmarks.by_hand import plain
from benchmarks.peers.serving import Task, serve, trainer
from benchmarks.tasks import network

LOSS = optax.softmax_cross_entropy_with_integer_labels


class JaxSide:
    """Steps on batches of NumPy arrays, which go to the device with the call."""

    def __init__(self, task: Task, module: nn.Module):
        self.task = task
        self.params = flax.traverse_util.unflatten_dict(task.params, sep="/")
        self.batch_size = task.order.shape[1]
        self.logits = jax.jit(lambda params, x: module.apply({"params": params}, x))
        self.state: Any = None
        self.step: Any = None

    def train(self, order: np.ndarray) -> float:
        for rows in order:
            batch = {"x": self.task.x[rows], "label": self.task.y[rows]}
            self.state, metrics = self.step(self.state, batch)
        jax.block_until_ready((self.state, metrics))
        return float(metrics["loss"])

    def accuracy(self) -> float:
        right, n = 0.0, len(self.task.test_x) // self.batch_size * self.batch_size
        for i in range(0, n, self.batch_size):
            x, y = (part[i : i + self.batch_size] for part in (self.task.test_x, self.task.test_y))
            right += float((self.logits(self.trained(), x).argmax(-1) == y).mean()) * len(x)
        return right / n

    def trained(self) -> Any:
        """The parameters as they are now."""
        raise NotImplementedError


class Trainkit(JaxSide):
    """`make_train_step` with the options that are on by default in `fit`."""

    def __init__(self, task: Task):
        module = network(task.name)
        super().__init__(task, module)
        tx = optax.adam(task.learning_rate)
        # As `fit` runs it: Keras, too, gives its state to the step.
        self.step = trainkit.make_train_step(trainkit.from_linen(module, LOSS), tx).donating()
        self.state = self.step.place(trainkit.TrainState.create(self.params, tx))

    def trained(self) -> Any:
        return self.state.params


class ByHand(JaxSide):
    """A jitted step."""

    def __init__(self, task: Task):
        module = network(task.name)
        super().__init__(task, module)
        tx = optax.adam(task.learning_rate)
        self.step = jax.jit(plain(module, tx))
        self.state = jax.device_put((self.params, tx.init(self.params)), jax.devices()[0])

    def trained(self) -> Any:
        return self.state[0]


if __name__ == "__main__":
    which, path = sys.argv[1:]
    serve(trainer({"trainkit": Trainkit, "by_hand": ByHand}[which], Task(path)))
