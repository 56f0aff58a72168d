"""An NNX transformer under pmap or FSDP: bfloat16, a schedule, EMA, accumulation, resume, a metric.

It learns to continue arithmetic sequences modulo 32. The same command again goes on where a run was
stopped.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python examples/transformer.py fsdp runs/lm
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import trainkit
import trainkit.transforms as tt

VOCABULARY, LENGTH, WIDTH, DEPTH, BATCH, STEPS = 32, 16, 64, 2, 32, 400


class Block(nnx.Module):
    def __init__(self, rngs):
        self.before, self.behind = (nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.before(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.behind(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs):
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.places = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.places(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batches(seed):
    for i in itertools.count():
        first, step = np.random.default_rng([seed, i]).integers(VOCABULARY, size=(2, BATCH, 1))
        text = ((first + step * np.arange(LENGTH + 1)) % VOCABULARY).astype(np.int32)
        yield {"tokens": text[:, :-1], "label": text[:, 1:]}


def loss(logits, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    best = jax.lax.top_k(logits, 5)[1]
    return losses, {"top_5": (best == labels[..., None]).any(-1)}


def train(placement, out, steps=STEPS):
    model = trainkit.from_nnx(Transformer(nnx.Rngs(0)), loss, inputs="tokens")
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 10, STEPS)
    tx = tt.chain(tt.clip_by_global_norm(1.0), tt.adamw(rate, weight_decay=0.1, mask=tt.decay_mask))
    tx = tt.average_params(tx, decay=0.9)
    precision = {"placement": placement, "precision": "bfloat16"}
    step = trainkit.make_train_step(model, tx, microbatches=2, **precision)
    evaluation = trainkit.make_eval_step(model, **precision)
    held_out = list(itertools.islice(batches(1), 4))
    return trainkit.fit(
        step,
        model.state(tx, held_out[0]),
        batches(0),
        steps=steps,
        evaluate=lambda state: evaluation.over(state, held_out),
        eval_every=20,
        averages=True,
        out=out,
    )


if __name__ == "__main__":
    print(train(*sys.argv[1:]).evaluation)
