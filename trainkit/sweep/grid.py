"""Many runs in one program: a grid of learning rates and seeds, compiled once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.dtypes import uphill
from trainkit.step.loss import LossFn
from trainkit.step.state import TrainState

PyTree = Any


class Sweep(NamedTuple):
    """The result of a sweep.

    Attributes:
      axes: name -> the values along that axis of the grid, in order.
      results: the results of all runs, with one leading axis for each name.
    """

    axes: dict[str, np.ndarray]
    results: PyTree

    def best(self, values: Any, mode: str = "min") -> tuple[dict[str, Any], float]:
        """(name -> value at the best point of the grid, best of `values`), for values [*grid].

        NaN is never the best.
        """
        validation.choice("mode", mode, ("min", "max"))
        found = np.asarray(values, np.float64)
        shape = tuple(len(axis) for axis in self.axes.values())
        if found.shape != shape:
            raise ValueError(f"values must have the grid's shape {shape}, not {found.shape}.")
        if np.isnan(found).all():
            raise ValueError("every run of the sweep is NaN; try lower learning rates.")
        pick = np.nanargmin if mode == "min" else np.nanargmax
        index = np.unravel_index(pick(found), shape)
        point = {
            name: axis[i].item() for (name, axis), i in zip(self.axes.items(), index, strict=True)
        }
        return point, float(found[index])


def sweep(run: Callable[..., PyTree], *, batch: int | None = None, **axes: Sequence) -> Sweep:
    """Runs `run(**point)` for every point of a grid, vmapped in one compiled program.

    Args:
      run: a pure function of one scalar (float32 or int32) for each axis that returns a pytree of
        arrays, such as a whole training run with its losses.
      batch: the number of points to run at a time, to limit memory; default: all. It is still one
        compilation: the last batch is padded with other points.
      **axes: name -> values.

    Raises:
      ValueError: no axes, an empty axis, values that are not numbers, or a batch below 1.

    >>> s = sweep(lambda rate, seed: (rate - 0.3) ** 2 + 0 * seed, rate=[0.1, 0.3], seed=[0, 1, 2])
    >>> s.results.shape, s.best(s.results)[0]["rate"]
    ((2, 3), 0.3)
    """
    validation.function("run", run, "of one scalar per axis")
    if not axes:
        raise ValueError("sweep needs at least one axis: sweep(run, learning_rate=[1e-3, 1e-2]).")
    values = {}
    for name, axis in axes.items():
        array = np.asarray(axis)
        if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.number):
            raise ValueError(f"the axis {name!r} must be a list of numbers, not {axis!r}.")
        values[name] = array
    shape = tuple(len(axis) for axis in values.values())
    points = np.array(list(itertools.product(*(range(n) for n in shape))), np.int32)
    total = len(points)
    if batch is not None:
        validation.integer("batch", batch)
    size = total if batch is None else min(batch, total)
    columns = {name: axis[points[:, i]] for i, (name, axis) in enumerate(values.items())}

    @jax.jit
    def program(rows: Mapping[str, jax.Array]) -> PyTree:
        return jax.vmap(lambda point: run(**point))(rows)

    parts = []
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        parts.append(program({name: jnp.asarray(column[rows]) for name, column in columns.items()}))
    joined = jax.tree.map(lambda *x: jnp.concatenate(x)[:total], *parts)
    results = jax.tree.map(lambda x: x.reshape(shape + x.shape[1:]), joined)
    return Sweep(values, results)


def sweep_training(
    loss_fn: LossFn,
    make: Callable[..., optax.GradientTransformation],
    init: Callable[[jax.Array], PyTree],
    batches: PyTree,
    *,
    seeds: Sequence[int] = (0,),
    batch: int | None = None,
    **hyperparameters: Sequence,
) -> Sweep:
    """Trains for every combination of hyper-parameters and seeds, in one compiled program.

    Args:
      loss_fn: `loss_fn(params, model_state, batch, rng) -> Loss`, as for `make_train_step`.
      make: function of the hyper-parameters, as keywords (traced scalars), that returns the
        transformation: `adamw`, or a function that builds a chain with schedules.
      init: function random key -> parameters.
      batches: a pytree of arrays [steps, ...].
      seeds: integers; each determines the initial parameters and the random keys of its run.
      batch: as in `sweep`.
      **hyperparameters: name -> values.

    Returns:
      The sweep, with results `{"loss": [..., seeds, steps], "params": tree of [..., seeds, ...]}`.

    >>> import jax.numpy as jnp, trainkit, trainkit.transforms as tt
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss(jnp.sum((params - batch) ** 2), jnp.float32(batch.size))
    >>> s = sweep_training(
    ...     loss_fn, tt.sgd, lambda key: jnp.zeros(3), jnp.ones((20, 3)),
    ...     learning_rate=[1e-3, 1e-1, 0.5], seeds=[0, 1])
    >>> s.best(s.results["loss"][..., -1])[0]["learning_rate"]
    0.5
    """

    def run(seed: jax.Array, **values: jax.Array) -> PyTree:
        tx = optax.with_extra_args_support(make(**values))
        key = jax.random.key(seed)
        state = TrainState.create(init(key), tx, rng=jax.random.fold_in(key, 1))

        def mean(params: PyTree, data: PyTree, rng: jax.Array) -> Any:
            loss = loss_fn(params, state.model_state, data, rng)
            return loss.total / loss.weight

        def step(carry: Any, data: PyTree) -> Any:
            params, opt_state, n = carry
            value, grads = jax.value_and_grad(mean)(params, data, jax.random.fold_in(state.rng, n))
            updates, opt_state = tx.update(uphill(grads), opt_state, params)
            params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
            return (params, opt_state, n + 1), value

        start = (state.params, state.opt_state, jnp.zeros((), jnp.int32))
        (params, _, _), losses = jax.lax.scan(step, start, batches)
        return {"loss": losses, "params": params}

    return sweep(run, batch=batch, **hyperparameters, seed=seeds)
