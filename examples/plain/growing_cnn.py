"""The program of ../growing_cnn.py in plain Flax and Optax.

A unit is copied with its incoming weights, and its outgoing weights are divided among the copies by
uneven shares, which sum to 1 and let the copies part. What writes a unit has its gradient times the
share of the unit, and so have its moments.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

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


# Leaf -> the layers whose units its axes write and read, with the number of the axis.
WRITES = {"Conv_0/kernel": (3, 0), "Conv_0/bias": (0, 0), "Conv_1/kernel": (3, 1)}
WRITES |= {"Conv_1/bias": (0, 1)}
WRITES |= {
    f"BatchNorm_{i}/{leaf}": (0, i) for i in (0, 1) for leaf in ("scale", "bias", "mean", "var")
}
READS = {"Conv_1/kernel": (2, 0), "Dense_0/kernel": (0, 1)}


def unit_maps(old, new):
    """For each layer, the old unit of every new one, and the share of its outgoing weights."""
    rng, maps = np.random.default_rng(new), []
    for factor in (1, 2):
        origin = np.arange(factor * new) % (factor * old)
        raw = rng.uniform(0.5, 1.5, len(origin))
        share = raw / np.bincount(origin, raw)[origin]
        maps.append((origin, share.astype(np.float32)))
    return maps


def named(tree, change):
    """A tree whose leaves are changed by their names."""

    def one(path, leaf):
        return change("/".join(part.key for part in path), leaf)

    return jax.tree_util.tree_map_with_path(one, tree)


def copied(maps, name, leaf):
    for table in (WRITES, READS):
        if name in table:
            axis, layer = table[name]
            leaf = jnp.take(leaf, maps[layer][0], axis)
    return leaf


def times_shares(maps, table, name, leaf, power=1):
    """A grown leaf times the shares of the units on the axis that it has in a table."""
    if name not in table:
        return leaf
    axis, layer = table[name]
    share = maps[layer][1].reshape([-1 if i == axis else 1 for i in range(leaf.ndim)])
    return leaf * share**power


def grown(state, old, new):
    maps = unit_maps(old, new)
    params, stats, (adam, *rest) = state

    def weight(name, leaf):
        return times_shares(maps, READS, name, copied(maps, name, leaf))

    def moment(power):
        return lambda name, leaf: times_shares(maps, WRITES, name, copied(maps, name, leaf), power)

    adam = adam._replace(mu=named(adam.mu, moment(1)), nu=named(adam.nu, moment(2)))
    stats = named(stats, lambda name, leaf: copied(maps, name, leaf))
    return named(params, weight), stats, (adam, *rest)


def programs(width, tx):
    """Step and evaluation of the network of a width."""
    model = CNN(width)

    def loss_fn(params, stats, batch, train):
        variables = {"params": params, "batch_stats": stats}
        mutable = ["batch_stats"] if train else []
        logits, new = model.apply(variables, images(batch), train=train, mutable=mutable)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        return losses.mean(), (new, {"loss": losses.mean(), "accuracy": accuracy})

    @jax.jit
    def step(state, batch):
        params, stats, opt_state = state
        grads, (new, metrics) = jax.grad(loss_fn, has_aux=True)(params, stats, batch, True)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), new["batch_stats"], opt_state), metrics

    @jax.jit
    def measure(params, stats, batch):
        return loss_fn(params, stats, batch, False)[1][1]

    def evaluate(state, batch):
        return jax.tree.map(float, measure(state[0], state[1], batch))

    return model, step, evaluate


def endless(data, rng):
    while True:
        order = rng.permutation(len(data["label"]))
        for chosen in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            yield {name: leaf[chosen] for name, leaf in data.items()}


def train(data):
    data, rng = dict(np.load(data)), np.random.default_rng(0)
    order, held = rng.permutation(len(data["label"])), len(data["label"]) // 5
    training = {name: leaf[order[held:]] for name, leaf in data.items()}
    validation = {name: leaf[order[:held]] for name, leaf in data.items()}
    batches, tx = endless(training, rng), optax.adamw(3e-3)
    before = state = None
    for width in WIDTHS:
        model, step, evaluate = programs(width, tx)
        if state is None:
            example = images({"image": training["image"][:1]})
            variables = model.init(jax.random.key(0), example, train=False)
            params = variables["params"]
            state = params, variables["batch_stats"], tx.init(params)
        else:
            state = grown(state, before, width)
        print(f"width {width} begins at {evaluate(state, validation)}")
        for _ in range(STEPS):
            state, metrics = step(state, next(batches))
        before, found = width, evaluate(state, validation)
        print(f"width {width} ends at {found}, training loss {metrics['loss']:.3f}")
    return state, found


if __name__ == "__main__":
    print(train(*sys.argv[1:])[1])
