"""The program of ../fine_tuning.py in plain Flax and Optax."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

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


def restored(path, params):
    """The parameters of a file, with the new head; refuses what does not fit."""
    fresh = flatten_dict(params, sep=".")
    found = load_file(path)
    head = {name: leaf for name, leaf in fresh.items() if name.startswith("head")}
    found = {name: leaf for name, leaf in found.items() if not name.startswith("head")} | head
    if found.keys() != fresh.keys():
        raise ValueError(f"other parameters: {sorted(found.keys() ^ fresh.keys())}")
    for name, leaf in fresh.items():
        if found[name].shape != leaf.shape:
            raise ValueError(f"{name} has shape {found[name].shape}, not {leaf.shape}")
    return unflatten_dict(jax.tree.map(jnp.asarray, found), sep=".")


def optimizer(rate):
    factors = {"block_1": 0.25, "block_2": 0.5, "norm": 1.0, "head": 1.0}

    def label(path, leaf):
        module = path[0].key
        return module if module in factors else "frozen"

    def scaled(factor):
        mask = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
        return optax.adamw(lambda count: factor * rate(count), weight_decay=0.1, mask=mask)

    return optax.partition(
        {name: scaled(factor) for name, factor in factors.items()}
        | {"frozen": optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def train(pretrained, data):
    data = dict(np.load(data))
    rng = np.random.default_rng(0)
    order, held = rng.permutation(len(data["label"])), len(data["label"]) // 5
    part = lambda chosen: {name: leaf[chosen] for name, leaf in data.items()}
    training, validation, test = map(
        part, (order[2 * held :], order[held : 2 * held], order[:held])
    )
    model = Net(10)
    params = model.init(jax.random.key(0), training["image"][:1])["params"]
    params = restored(pretrained, params)
    steps = len(training["label"]) // BATCH
    tx = optimizer(optax.cosine_decay_schedule(3e-3, EPOCHS * steps))
    opt_state = tx.init(params)

    def loss_fn(params, batch):
        logits = jnp.asarray(model.apply({"params": params}, batch["image"]))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), {
            "loss": losses.mean(),
            "accuracy": (logits.argmax(-1) == batch["label"]).mean(),
        }

    @jax.jit
    def step(params, opt_state, batch):
        grads, metrics = jax.grad(loss_fn, has_aux=True)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, metrics

    @jax.jit
    def measure(params, batch):
        return loss_fn(params, batch)[1]

    evaluate = lambda params, batch: jax.tree.map(float, measure(params, batch))
    best, best_accuracy, waited = params, -1.0, 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(training["label"]))[: steps * BATCH].reshape(steps, BATCH)
        for chosen in order:
            batch = {name: leaf[chosen] for name, leaf in training.items()}
            params, opt_state, metrics = step(params, opt_state, batch)
        found = evaluate(params, validation)
        print(f"epoch {epoch + 1}: trained {float(metrics['loss']):.4f}, validation {found}")
        if found["accuracy"] > best_accuracy:
            best, best_accuracy, waited = params, found["accuracy"], 0
        else:
            waited += 1
            if waited == 3:
                break
    return best, evaluate(best, test)


if __name__ == "__main__":
    print(train(*sys.argv[1:])[1])
