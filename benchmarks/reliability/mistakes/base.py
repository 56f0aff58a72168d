"""The definition of a mistake, and the small models, states and runs for mistakes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import trainkit
from trainkit.data import Sampler

nan = math.nan
CLASSES = 3


class Mistake(NamedTuple):
    """One bad input.

    Attributes:
      make: makes the mistake, given a path that does not exist. It raises, returns a `Said`, or
        returns whether the results are those of good input.
      says: the words that the message must contain: the argument's name, and the fix.
      harmless: whether it must be accepted, as documented, because it changes nothing.
      late: whether it can only be detected in a running run, in what a hook saves.
    """

    make: Callable[[Path], Any]
    says: tuple[str, ...]
    harmless: bool = False
    late: bool = False


class Said(NamedTuple):
    """The message of a command that refused."""

    text: str


Mistakes = dict[str, Mistake]


def of_options(
    of: str,
    call: Callable[..., Any],
    options: Mapping[str, Sequence[Any]],
    says: str = "must be",
) -> Mistakes:
    """A mistake for each bad value of each option; its message must name the option."""
    return {
        f"{of}({name}={shown(value)})": Mistake(
            functools.partial(_with_option, call, name, value), (name, says)
        )
        for name, values in options.items()
        for value in values
    }


def _with_option(call: Callable[..., Any], name: str, value: Any, out: Path) -> Any:
    del out
    return call(**{name: value})


def shown(value: Any) -> str:
    """A short text for a value, the same in every process."""
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))[:40]


# -- parts for mistakes ----------------------------------------------------------------------------


def batch(size: int = 8, **changes: Any) -> dict[str, Any]:
    """A batch with two inputs and a label per example."""
    x = np.linspace(-1, 1, 2 * size, dtype=np.float32).reshape(size, 2)
    whole = {"x": x, "label": (np.arange(size) % CLASSES).astype(np.int32)}
    return {k: v for k, v in (whole | changes).items() if v is not None}


def labels(*first: int, size: int = 8, dtype: Any = np.int32) -> np.ndarray:
    """Valid labels, except for the first ones."""
    found = np.arange(size) % CLASSES
    found[: len(first)] = first
    return found.astype(dtype)


def weights(*first: float, size: int = 8) -> np.ndarray:
    """Weights of 1, except for the first ones."""
    found = np.ones(size, np.float32)
    found[: len(first)] = first
    return found


@functools.cache
def tx() -> optax.GradientTransformation:
    return optax.sgd(0.1)


@functools.cache
def model() -> Any:
    return trainkit.from_linen(nn.Dense(CLASSES), optax.softmax_cross_entropy_with_integer_labels)


@functools.cache
def step() -> Any:
    return trainkit.make_train_step(model(), tx())


@functools.cache
def evaluation() -> Any:
    return trainkit.make_eval_step(model())


@functools.cache
def fresh() -> Any:
    return model().state(tx(), batch())


@functools.cache
def placed() -> Any:
    return step().place(fresh())


def plain_loss(params: Any, model_state: Any, batch: Any, rng: Any) -> Any:
    error = batch["x"] @ params["w"]
    return trainkit.Loss((error**2).sum(), len(error))


@functools.cache
def plain_step(**options: Any) -> Any:
    return trainkit.make_train_step(plain_loss, tx(), **options)


@functools.cache
def plain_state() -> Any:
    return trainkit.TrainState.create({"w": jnp.ones(2)}, tx())


def sampler(data: Any = None, **options: Any) -> Sampler:
    return Sampler(batch() if data is None else data, options.pop("batch_size", 4), **options)


def fit(out: Path | None = None, **changes: Any) -> Any:
    """A run of two steps, with some options changed."""
    options = {
        "step": step(), "state": fresh(), "data": sampler(), "steps": 2, "progress": False,
        "report": False, "out": out,
    } | changes  # fmt: skip
    return trainkit.fit(options.pop("step"), options.pop("state"), options.pop("data"), **options)


def of_fit(name: str, value: Any, **more: Any) -> Callable[[Path], Any]:
    return lambda out: fit(out, **{name: value}, **more)


def flax_state() -> Any:
    from flax.training.train_state import TrainState

    return TrainState.create(
        apply_fn=None, params={"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, tx=tx()
    )


def linen() -> Any:
    return nn.Dense(CLASSES)


def nnx_module() -> Any:
    return nnx.Linear(2, CLASSES, rngs=nnx.Rngs(0))


def equal(a: Any, b: Any) -> bool:
    """Whether two trees are bitwise equal."""
    return all(
        np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def deleted_state() -> Any:
    """A state whose buffers were donated to a step."""
    gone = step().place(fresh())
    for leaf in jax.tree.leaves(gone):
        leaf.delete()
    return gone
