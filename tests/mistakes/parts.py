"""Small models, states, runs and plans that mistakes are made with."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from trainkit import checkpoint, growth, progressive
from trainkit.data import Sampler

ROWS = {
    "x": np.linspace(-1, 1, 48, dtype=np.float32).reshape(16, 3),
    "label": (np.arange(16) % 4).astype(np.int32),
}
TX = optax.sgd(0.1)
softmax = optax.softmax_cross_entropy_with_integer_labels


class Net(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(self.width)(x)))


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(x))


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x + jax.random.normal(self.make_rng("noise"), x.shape))


def noisy():
    return trainkit.from_linen(Noisy(), softmax)


def loss_fn(params, model_state, batch, rng):
    error = batch["x"] @ params["w"]
    return trainkit.Loss(jnp.square(error).sum(), weight=len(error))


@functools.cache
def model():
    return trainkit.from_linen(Net(), softmax)


@functools.cache
def step(**options):
    return trainkit.make_train_step(model(), TX, **options)


@functools.cache
def fresh():
    return model().state(TX, ROWS)


@functools.cache
def placed():
    return step().place(fresh())


@functools.cache
def plain():
    """A state for `loss_fn`."""
    return trainkit.TrainState.create({"w": jnp.ones(3)}, TX)


def rows(**changes):
    return {name: leaf for name, leaf in {**ROWS, **changes}.items() if leaf is not None}


def fit(*, step=step, state=fresh, data=None, **options):
    options = {"steps": 2, "progress": False, "report": False, **options}
    data = Sampler(ROWS, 8) if data is None else data
    return trainkit.fit(step(), state(), data, **options)


def deleted():
    """What is left of a state that a donating step was given."""
    gone = step().place(fresh())
    jax.tree.map(lambda leaf: leaf.delete(), gone)
    return gone


def mlp(params, x):
    return jax.nn.gelu(x @ params["in"]) @ params["out"]


def with_table(params, x):
    table = jnp.linspace(0.0, 1.0, params["in"].shape[1])
    return jnp.tanh(x @ params["in"] + table) @ params["out"]


def sizes(width):
    spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"in": spec(3, width), "out": spec(width, 2)}


def build(size):
    return trainkit.from_linen(Net(size), softmax)


def stages():
    return [progressive.Stage(4, progressive.triggers.steps(5)), progressive.Stage(8)]


def grown(*args, **options):
    data = Sampler(ROWS, 8)
    return progressive.progressive(*args, TX, data, [ROWS], steps=20, **options)


def saved():
    checkpoint.save("saved", fresh())
    return "saved"


def file_of(content):
    path = pathlib.Path("other/file.safetensors")
    path.parent.mkdir()
    path.write_bytes(content)
    return path


EXAMPLE = jax.ShapeDtypeStruct((5, 3), jnp.float32)


@functools.cache
def plan():
    return growth.plan(mlp, mlp, sizes(4), sizes(8), EXAMPLE)
