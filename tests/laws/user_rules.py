"""Rules as people write them: what their source takes from around it, in every way that occurs."""

import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import operator
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from functools import partial, reduce
from math import pi, sqrt
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy
import optax
import optax as ox
from jax import Array, lax
from jax.tree_util import tree_map
from optax import EmptyState, GradientTransformation

LR = 0.1
TABLE = {"a": 1.0, "b": [2.0, sqrt]}
SHIFT = jnp.array([1.0, 2.0])
Tuple = namedtuple("Tuple", ["count", "mu"])


class State(NamedTuple):
    count: Any
    mu: Any


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1
    beta: float = dataclasses.field(default=0.9)


CONFIG = Config(lr=0.2)


class Mode(enum.Enum):
    UP = 1
    DOWN = 2


class Rule:
    def __init__(self, lr):
        self.lr = lr

    def init(self, params):
        return optax.EmptyState()

    def update(self, g, s, p=None):
        return tree_map(lambda x: self.lr * x, g), s


@flax.struct.dataclass
class Held:
    mu: Any


def each(f):
    return optax.stateless(lambda g, p: jax.tree.map(f, g))


def helper(x, scale=LR):
    return scale * sqrt(2.0) * x


def twice(f):
    @functools.wraps(f)
    def inner(*args, **kwargs):
        return 2 * f(*args, **kwargs)

    return inner


@twice
def decorated(x):
    return x * 2


@jax.jit
def compiled(x):
    return x * 3.0


def with_math(lr=LR):
    return each(lambda x: lr * helper(x) * pi)


def with_partial():
    return each(partial(helper, scale=2.0))


def with_reduce():
    return each(lambda x: reduce(operator.add, [x, x]))


def momentum(kind):
    def init(p):
        return kind(jnp.zeros([], jnp.int32), tree_map(jnp.zeros_like, p))

    def update(g, s, p=None):
        mu = tree_map(lambda m, g: 0.9 * m + g, s.mu, g)
        return mu, kind(s.count + 1, mu)

    return ox.GradientTransformation(init, update)


def with_namedtuple():
    return momentum(Tuple)


def with_typed_tuple():
    return momentum(State)


def with_config(config=CONFIG):
    return each(lambda x: config.lr * CONFIG.beta * x)


def with_enum(mode=Mode.UP):
    return each(lambda x: x if mode is Mode.UP else -x)


def with_methods():
    rule = Rule(0.3)
    return GradientTransformation(rule.init, rule.update)


def with_struct():
    def update(g, s, p=None):
        mu = tree_map(lambda m, g: 0.9 * m + g, s.mu, g)
        return mu, Held(mu=mu)

    return GradientTransformation(lambda p: Held(mu=tree_map(jnp.zeros_like, p)), update)


def with_decorator():
    return each(decorated)


def with_jit():
    return each(compiled)


def with_numpy():
    return each(lambda x: x * numpy.sqrt(2.0).astype(numpy.float32))


def with_lax(like: Array | None = None, f: Callable[..., Any] = sqrt) -> GradientTransformation:
    return each(lambda x: lax.mul(x, jnp.full_like(x, f(2.0))))


COUNTED = OrderedDict(a=3.0)


def with_table(counted=COUNTED):
    return each(lambda x: x * TABLE["b"][1](TABLE["b"][0]) * counted["a"] + SHIFT.sum())


def with_contexts():
    def update(g, s, p=None):
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("ignore")
            return tree_map(lambda x: x * copy.copy(LR), g), s
        raise AssertionError

    return GradientTransformation(lambda p: EmptyState(), update)


def with_recursion():
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    return each(lambda x: x * factorial(3))


def with_counter():
    counts = collections.Counter("aab")
    return each(lambda x, n=counts["a"]: x * n)


def around_optax():
    inner = optax.adam(0.1)

    def update(g, s, p=None):
        u, s = inner.update(g, s, p)
        return tree_map(jnp.negative, u), s

    return GradientTransformation(inner.init, update)


def scaled(k):
    def update(g, s, p=None):
        return tree_map(lambda x: k * x, g), s

    return GradientTransformation(lambda p: (), update)


class Home:
    rate = 0.3

    @staticmethod
    def static():
        return each(lambda x: x * Home.rate)

    @classmethod
    def of_class(cls):
        return each(lambda x: x * cls.rate)


LOOP = [lambda k=k, *, m=3.0: each(lambda x: k * m * x) for k in (2.0, 5.0)]
FACTORIES = [
    with_math, with_partial, with_reduce, with_namedtuple, with_typed_tuple, with_config, with_enum,
    with_methods, with_struct, with_decorator, with_jit, with_numpy, with_lax, with_table,
    with_contexts, with_recursion, with_counter, around_optax, Home.static, Home.of_class,
]  # fmt: skip
RULES = {f.__name__: f for f in FACTORIES} | {
    "a partial": functools.partial(with_math, lr=0.2),
    "a partial of Optax": functools.partial(optax.sgd, learning_rate=0.2),
    "a lambda": lambda: with_reduce(),
    "an instance": scaled(0.5),
    "the first of a loop": LOOP[0],
    "the second of a loop": LOOP[1],
    "two instances of one factory": optax.chain(scaled(0.5), scaled(3.0)),
    "two of one factory in a lambda": lambda: optax.chain(scaled(0.5), scaled(3.0)),
    "an object": Rule(0.1),
    "a chain of Optax": optax.chain(optax.trace(0.9, nesterov=True), optax.scale(LR)),
    "a wrapper of Optax": optax.masked(optax.adam(0.1, b1=0.8), lambda p: tree_map(jnp.ndim, p)),
    "injected": optax.inject_hyperparams(optax.sgd)(learning_rate=0.3),
    "a schedule": optax.sgd(optax.cosine_decay_schedule(0.1, 100)),
}
