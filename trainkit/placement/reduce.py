"""The one reduction of a step: local sums become sums over all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any


class Sums(NamedTuple):
    """What a step adds up over micro-batches and devices before it divides by the weight.

    Attributes:
      grads: Σ ∂total/∂params, in the accumulation dtype.
      total: Σ total, scalar.
      weight: Σ weight, scalar.
      metrics: name -> (Σ total, Σ weight).
      model_state: averaged over devices, not summed.
    """

    grads: PyTree
    total: jax.Array
    weight: jax.Array
    metrics: dict[str, tuple[jax.Array, jax.Array]]
    model_state: PyTree


def same_everywhere(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The mean over devices; for counters, flags and keys the first device's value."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return lax.pmean(x, axes)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = same_everywhere(jax.random.key_data(x), axes)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return lax.all_gather(x, axes)[0]


def same_params(params: PyTree, axes: tuple[str, ...]) -> PyTree:
    """The parameters, which each device has the same, so that a sum over devices differentiates.

    To `psum`, each device's parameters are variables of their own, and the derivative by one of
    them that of a single device's part, times the number of devices. To a function of the mean of
    all the devices' parameters it is the derivative of the sum; so that is what is differentiated.
    """

    @jax.custom_jvp
    def mean(params: PyTree) -> PyTree:
        return params

    @mean.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        # Not the bare `primals[0]`: the rule is differentiated too, for derivatives of the second
        # order.
        return mean(primals[0]), lax.pmean(tangents[0], axes)

    return mean(params)


def psum(tree: PyTree, axes: tuple[str, ...]) -> PyTree:
    """The sum over devices. What is known before the program runs is multiplied, not reduced."""
    leaves, treedef = jax.tree.flatten(tree)
    known = [not isinstance(x, jax.Array) for x in leaves]
    summed = iter(lax.psum([x for x, k in zip(leaves, known, strict=True) if not k], axes))
    devices = lax.axis_size(axes)
    return jax.tree.unflatten(
        treedef,
        [
            x * x.dtype.type(devices) if k else next(summed)
            for x, k in zip(leaves, known, strict=True)
        ],
    )


def over_devices(local: Callable, axes: tuple[str, ...]) -> Callable:
    """`local`, with a random key of each device's own and its sums taken over the mesh axes.

    Everything is added up in one reduction, after the last micro-batch.
    """

    def summed(params: PyTree, model_state: PyTree, batch: PyTree, rng: Any, scale: Any) -> Sums:
        rng = jax.random.fold_in(rng, lax.axis_index(axes))
        sums = local(same_params(params, axes), model_state, batch, rng, scale)
        grads, total, weight, metrics = psum(tuple(sums[:4]), axes)
        state = jax.tree.map(lambda x: same_everywhere(x, axes), sums.model_state)
        return Sums(grads, total, weight, metrics, state)

    return summed
