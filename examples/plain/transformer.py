"""The program of ../transformer.py in plain Flax, Optax and Orbax."""

import functools
import itertools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def loss_fn(params, graph, batch):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    logits = nnx.merge(graph, half)(batch["tokens"]).astype(jnp.float32)
    labels = batch["label"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    best = jax.lax.top_k(logits, 5)[1]
    hits = {"top_5": (best == labels[..., None]).any(-1), "accuracy": best[..., 0] == labels}
    return losses.mean(), jax.tree.map(jnp.mean, {"loss": losses} | hits)


def over_devices(tree, axis):
    return tree if axis is None else jax.lax.pmean(tree, axis)


def update(state, batch, graph, tx, axis=None):
    params, opt_state, average = state

    def accumulate(total, part):
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, graph, part)
        return jax.tree.map(jnp.add, total, grads), metrics

    # Every second example, so that a part lies on all devices as the batch does.
    parts = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]).swapaxes(0, 1), batch)
    total, metrics = jax.lax.scan(accumulate, jax.tree.map(jnp.zeros_like, params), parts)
    means = jax.tree.map(lambda g: g / 2, total), jax.tree.map(jnp.mean, metrics)
    grads, metrics = over_devices(means, axis)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    average = optax.incremental_update(params, average, 0.1)
    return (params, opt_state, average), metrics | {"grad_norm": optax.tree.norm(grads)}


def measure(params, batch, graph, axis=None):
    return over_devices(loss_fn(params, graph, batch)[1], axis)


def programs(placement, graph, tx):
    """Step and evaluation, how a state and a batch are laid out, and how they are taken back."""
    step = functools.partial(update, graph=graph, tx=tx)
    evaluate = functools.partial(measure, graph=graph)
    count = len(jax.devices())
    if placement == "pmap":
        return (
            jax.pmap(functools.partial(step, axis="data"), "data", donate_argnums=0),
            jax.pmap(functools.partial(evaluate, axis="data"), "data"),
            lambda state: jax.tree.map(lambda x: jnp.array(np.stack([x] * count)), state),
            lambda batch: jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch),
            lambda tree: jax.tree.map(lambda x: x[0], tree),
        )
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def sharding(leaf):
        for axis in sorted(range(leaf.ndim), key=lambda axis: -leaf.shape[axis]):
            if leaf.size >= 1024 and leaf.shape[axis] % count == 0:
                return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
        return NamedSharding(mesh, PartitionSpec())

    def place(state):
        return jax.device_put(state, jax.tree.map(sharding, state))

    def sharded_step(state, batch):
        state, metrics = step(state, batch)
        return jax.lax.with_sharding_constraint(state, jax.tree.map(sharding, state)), metrics

    cut = lambda batch: jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    return jax.jit(sharded_step, donate_argnums=0), jax.jit(evaluate), place, cut, lambda tree: tree


def train(placement, out, steps=STEPS):
    graph, params = nnx.split(Transformer(nnx.Rngs(0)))
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 10, STEPS)
    mask = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.1, mask=mask))
    step, evaluate, place, cut, taken = programs(placement, graph, tx)
    state = place((params, tx.init(params), jax.tree.map(jnp.copy, params)))
    out = pathlib.Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(out / "checkpoints", options=options) as checkpoints:
        begin = checkpoints.latest_step() or 0
        if begin:
            like = ocp.args.StandardRestore(taken(state))
            state = place(checkpoints.restore(begin, args=like))
        held_out = list(itertools.islice(batches(1), 4))
        for done, batch in enumerate(itertools.islice(batches(0), begin, steps), begin + 1):
            state, metrics = step(state, cut(batch))
            if done % 20 == 0 or done == steps:
                each = [taken(evaluate(state[2], cut(batch))) for batch in held_out]
                found = jax.tree.map(lambda *x: float(np.mean(x)), *each)
                train = {name: float(value) for name, value in taken(metrics).items()}
                row = {"step": done, "learning_rate": float(rate(done - 1)), "train": train}
                with (out / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(row | {"evaluation": found}) + "\n")
                print(row["step"], found)
                checkpoints.save(done, args=ocp.args.StandardSave(taken(state)))
    return found


if __name__ == "__main__":
    print(train(*sys.argv[1:]))
