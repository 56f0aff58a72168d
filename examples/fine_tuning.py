"""Fine-tunes a network from a safetensors file, with the lower part of its body frozen.

The layers above learn the slower the lower they are, matrices alone decay, and the head is new. The
README beside this file makes the two files.

    python examples/fine_tuning.py body.safetensors digits.npz
"""

import sys

import flax.linen as nn
import numpy as np
import optax

import trainkit
import trainkit.transforms as tt
from trainkit import checkpoint
from trainkit.data import Sampler, split

WIDTH, EPOCHS, BATCH = 64, 10, 50


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(2 * WIDTH, name="up")(nn.LayerNorm(name="norm")(x)))
        return x + nn.Dense(WIDTH, name="down")(y)


class Net(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images):
        x = nn.Dense(WIDTH, name="stem")(images.reshape(len(images), -1) / 255.0)
        for i in range(3):
            x = Block(name=f"block_{i}")(x)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="norm")(x))


def train(pretrained, data):
    data = dict(np.load(data))
    parts = split(data, validation=0.2, test=0.2, seed=0)
    model = trainkit.from_linen(
        Net(10), optax.softmax_cross_entropy_with_integer_labels, inputs="image"
    )
    rate = optax.cosine_decay_schedule(3e-3, EPOCHS * (len(parts.train["label"]) // BATCH))
    body = tt.chain(
        tt.adamw(rate, weight_decay=0.1, mask=tt.decay_mask),
        tt.layerwise_decay(["block_1", "block_2", "^norm|head"], 0.5),
    )
    tx = tt.groups([("stem|block_0", None), (".*", body)])
    params = model.state(tx, parts.train, rng=0).params
    params = checkpoint.restore(pretrained, params, fresh="head").state
    evaluation = trainkit.make_eval_step(model)
    result = trainkit.fit(
        trainkit.make_train_step(model, tx),
        model.state(tx, parts.train, params=params),
        Sampler(parts.train, BATCH),
        epochs=EPOCHS,
        evaluate=lambda state: evaluation.over(state, [parts.validation]),
        early_stopping=trainkit.EarlyStopping("accuracy", mode="max", patience=3),
    )
    return result, evaluation.over(result.state, [parts.test])


if __name__ == "__main__":
    print(train(*sys.argv[1:])[1])
