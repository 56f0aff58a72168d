"""From a `flax.nnx` module to what the train step takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from trainkit.adapters.model import Model, inputs_of

PyTree = Any


def from_nnx(
    module: nnx.Module,
    loss: Callable[..., Any],
    *,
    inputs: str | Callable[[PyTree], PyTree] | None = None,
) -> Model:
    """An NNX module and its loss, as the `loss_fn` of `make_train_step`.

    The module is left as it is. Its `nnx.Param`s become the parameters, as nested dicts of arrays;
    every other variable but random streams becomes model state. `module.train()` and
    `module.eval()` set the mode. Random streams are never advanced: they are seeded anew for each
    step, micro-batch and device.

    Args:
      module: an initialised module, called as `module(inputs)`.
      loss: as for `trainkit.from_linen`.
      inputs: as for `trainkit.from_linen`.

    Batch statistics are treated as `trainkit.from_linen` says.

    >>> from flax import nnx
    >>> import numpy as np, optax, trainkit
    >>> model = trainkit.from_nnx(
    ...     nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optax.softmax_cross_entropy_with_integer_labels)
    >>> batch = {"x": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int32)}
    >>> tx = optax.sgd(0.1)
    >>> step = trainkit.make_train_step(model, tx)
    >>> state, metrics = step(step.place(model.state(tx, batch)), batch)
    >>> sorted(state.params)
    ['bias', 'kernel']
    """
    graph, *parts = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, streams, rest = (nnx.to_pure_dict(part) for part in parts)
    keywords = inspect.signature(type(module).__call__).parameters

    def init(rng: jax.Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        del rng, batch  # the module was initialised by whoever made it
        return params, rest

    def apply(
        params: PyTree, model_state: PyTree, inputs: PyTree, rng: jax.Array, train: bool
    ) -> tuple[PyTree, PyTree]:
        merged = nnx.merge(graph, params, _seeded(streams, rng), model_state)
        (merged.train if train else merged.eval)()
        extra = {"rngs": nnx.Rngs(rng)} if "rngs" in keywords else {}
        # Flax's norms mix half precision with float32 statistics, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            outputs = merged(inputs, **extra)
        _, *parts = nnx.split(merged, nnx.Param, nnx.RngState, ...)
        return outputs, nnx.to_pure_dict(parts[2])

    return Model(init, apply, loss, inputs_of(inputs))


def _seeded(streams: PyTree, rng: jax.Array) -> PyTree:
    """The streams at their beginning, each with a key of its own."""
    leaves, treedef = jax.tree.flatten(streams)

    def seed(number: int, leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros_like(leaf)
        key = jax.random.fold_in(rng, number)
        return jax.random.split(key, leaf.shape) if leaf.shape else key

    return jax.tree.unflatten(treedef, [seed(i, leaf) for i, leaf in enumerate(leaves)])
