"""From a `flax.linen` module to what the train step takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from trainkit.adapters.model import Model, inputs_of

PyTree = Any
# How modules say in which mode they run, and what they are given in training.
MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}


def from_linen(
    module: nn.Module,
    loss: Callable[..., Any],
    *,
    inputs: str | Callable[[PyTree], PyTree] | None = None,
    rngs: Sequence[str] = ("dropout",),
) -> Model:
    """A Linen module and its loss, as the `loss_fn` of `make_train_step`.

    Args:
      module: called as `module(inputs)`, with `train=`, `training=`, `is_training=` or
        `deterministic=` where its `__call__` has a parameter of that name.
      loss: `loss(outputs, batch)`, one value an example [B] or a token [B, T], never their mean;
        or a pair of that and a dict of metrics of such shapes. Optax's losses work as they are:
        where the second parameter is called labels or targets, it gets the labels. Values are
        weighed with the batch's "weight", "weights" or "mask" ([B] or the loss's shape).
      inputs: the batch's key of what the module is called with, or a function of the batch.
        `None`: the first of x, inputs, input, image, images, tokens, features; of a tuple its
        first element.
      rngs: the names of the random streams in training mode. Each step, micro-batch and device
        draws its own.

    Where labels are integers and the outputs logits, "accuracy" is reported.

    Every collection but "params" is model state. Batch statistics go through the micro-batches
    one after another. Under "pmap", "shard_map" and micro-batches over several devices each
    device normalises its own examples, and the statistics are averaged over devices at the end of
    the step; under "jit" and "fsdp" the batch is normalised whole, as on a single device.

    Raises:
      ValueError: from the first step: a loss that is a mean already, or inputs or labels that
        cannot be told in the batch.

    >>> import flax.linen as nn, numpy as np, optax, trainkit
    >>> model = trainkit.from_linen(
    ...     nn.Dense(3), optax.softmax_cross_entropy_with_integer_labels)
    >>> batch = {"x": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int32)}
    >>> tx = optax.sgd(0.1)
    >>> step = trainkit.make_train_step(model, tx)
    >>> state, metrics = step(step.place(model.state(tx, batch)), batch)
    >>> sorted(metrics)
    ['accuracy', 'grad_norm', 'loss', 'param_norm', 'skipped_steps', 'update_norm']
    """
    parameters = inspect.signature(type(module).__call__).parameters
    select = inputs_of(inputs)

    def mode(train: bool) -> dict[str, Any]:
        return {
            name: value if train else not value
            for name, value in MODES.items()
            if name in parameters
        }

    def init(rng: jax.Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(rng, 1 + len(rngs))
        named = dict(zip(("params", *rngs), keys, strict=True))
        variables = dict(module.init(named, select(batch), **mode(train=False)))
        return variables.pop("params", {}), variables

    def apply(
        params: PyTree, model_state: PyTree, inputs: PyTree, rng: jax.Array, train: bool
    ) -> tuple[PyTree, PyTree]:
        variables = {"params": params, **model_state}
        keys = {name: jax.random.fold_in(rng, i) for i, name in enumerate(rngs)}
        # Flax's norms mix half precision with float32 statistics, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            if not train:
                return module.apply(variables, inputs, **mode(train)), model_state
            outputs, new = module.apply(
                variables, inputs, rngs=keys, mutable=list(model_state), **mode(train)
            )
        return outputs, dict(new)

    return Model(init, apply, loss, select)
