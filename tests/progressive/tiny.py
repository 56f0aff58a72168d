"""A run small enough to test with: a linear network that is widened by a rule written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from trainkit.adapters.model import Model
from trainkit.data import Sampler
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.progressive import Data
from trainkit.progressive.transition.state_growth import StateGrowth

FEATURES, CLASSES = 6, 3


def build(width):
    """ReLU network with one hidden layer of `width`; a stage's model is just that number."""

    def init(rng, batch):
        a, b = jax.random.split(rng)
        return {
            "in": jax.random.normal(a, (FEATURES, width)) / FEATURES**0.5,
            "out": jax.random.normal(b, (width, CLASSES)) / width**0.5,
        }, {}

    def apply(params, model_state, inputs, rng, train):
        return jax.nn.relu(inputs @ params["in"]) @ params["out"], model_state

    return Model(
        init,
        apply,
        optax.softmax_cross_entropy_with_integer_labels,
        lambda batch: batch["x"],
    )


def grow(small, big, batch, *, tx, how, reset, key):
    """Copies the hidden units k times and divides what reads them by k; SGD only."""
    n, m = small.module, big.module
    if m % n:
        raise GrowthError(f"{m} is no multiple of {n}")
    k = m // n

    def apply(state):
        params = state.params
        new = {
            "in": jnp.tile(params["in"], (1, k)),
            "out": jnp.tile(params["out"], (k, 1)) / k,
        }
        return state.replace(params=new, opt_state=tx.init(new))

    map = MapData(rates={"out": 1 / k})
    return StateGrowth(apply, map, exact=True, text=f"{n} -> {m}")


def arrays(examples=96, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, FEATURES)).astype(np.float32)
    hidden = np.maximum(x @ random.normal(size=(FEATURES, 16)), 0)
    label = (hidden @ random.normal(size=(16, CLASSES))).argmax(1).astype(np.int32)
    return {"x": x, "label": label}


def parts(data, size):
    n = len(data["label"])
    return [{k: v[i : i + size] for k, v in data.items()} for i in range(0, n, size)]


def sampler(data=None):
    """`Data -> Sampler`, whose subset and batch size grow."""
    data = data or Data()
    train = arrays()
    size = {None: 96}.get(data.subset, data.subset)
    if isinstance(size, float):
        size = round(96 * size)
    return Sampler({k: v[:size] for k, v in train.items()}, data.batch_size or 16)


def run(stages, **options):
    """A progressive run with the defaults of these tests."""
    defaults = {
        "build": build,
        "tx": optax.sgd(0.1),
        "data": Sampler(arrays(), 16),
        "validation": parts(arrays(64, seed=1), 16),
        "grow": grow,
        "progress": False,
        "eval_every": 5,
        "log_every": 100,
    }
    return trainkit.progressive.progressive(stages, **{**defaults, **options})


def events(result, kind):
    """The events of a kind in a run's history."""
    return [event for event in result.history if event["event"] == kind]
