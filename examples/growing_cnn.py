"""A convolutional network of one's own that becomes wider twice, in a loop of one's own.

python examples/growing_cnn.py digits.npz
"""

import sys

import flax.linen as nn
import numpy as np
import optax

import trainkit
from trainkit import growth
from trainkit.data import Sampler, split

WIDTHS, STEPS, BATCH = (4, 8, 16), 200, 50


class CNN(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        for factor in (1, 2):
            x = nn.Conv(factor * self.width, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def images(batch):
    return batch["image"] / 255.0


def train(data):
    parts = split(dict(np.load(data)), validation=0.2, seed=0)
    batches, tx = Sampler(parts.train, BATCH), optax.adamw(3e-3)
    small = state = None
    for width in WIDTHS:
        model = trainkit.from_linen(
            CNN(width), optax.softmax_cross_entropy_with_integer_labels, inputs=images
        )
        step, evaluation = trainkit.make_train_step(model, tx), trainkit.make_eval_step(model)
        if state is None:
            state = model.state(tx, parts.train)
        else:
            state = growth.grow(state, small, model, parts.train, tx=tx)
        print(f"width {width} begins at {evaluation.over(state, [parts.validation])}")
        for _ in range(STEPS):
            state, metrics = step(state, next(batches))
        small, found = model, evaluation.over(state, [parts.validation])
        print(f"width {width} ends at {found}, training loss {metrics['loss']:.3f}")
    return state, found


if __name__ == "__main__":
    print(train(*sys.argv[1:])[1])
