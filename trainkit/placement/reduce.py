"""The reduction of a step: local sums become sums over all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any


class Sums(NamedTuple):
    """The sums of a step over micro-batches and devices, before the division by the weight.

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
    """The mean over devices of a float; the first device's value of a counter, flag or key."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return lax.pmean(x, axes)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = same_everywhere(jax.random.key_data(x), axes)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return lax.all_gather(x, axes)[0]


def same_params(params: PyTree, axes: tuple[str, ...]) -> PyTree:
    """The replicated parameters, such that a sum over devices has the right derivatives.

    `psum` treats the parameters of each device as separate variables: the derivative is that of
    one device's part, times the number of devices. As a function of the mean of the parameters over
    devices, the sum has the right derivative, so this mean is what is differentiated.
    """

    @jax.custom_jvp
    def mean(params: PyTree) -> PyTree:
        return params

    @mean.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        # Not just `primals[0]`: second-order derivatives differentiate this rule too.
        return mean(primals[0]), lax.pmean(tangents[0], axes)

    return mean(params)


def psum(tree: PyTree, axes: tuple[str, ...]) -> PyTree:
    """The sum over devices; a value known at trace time is multiplied by their number."""
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
    """`local` with a random key for each device, and its sums reduced over the mesh axes.

    There is one reduction, after the last micro-batch.
    """

    def summed(params: PyTree, model_state: PyTree, batch: PyTree, rng: Any, scale: Any) -> Sums:
        rng = jax.random.fold_in(rng, lax.axis_index(axes))
        sums = local(same_params(params, axes), model_state, batch, rng, scale)
        grads, total, weight, metrics = psum(tuple(sums[:4]), axes)
        state = jax.tree.map(lambda x: same_everywhere(x, axes), sums.model_state)
        return Sums(grads, total, weight, metrics, state)

    return summed
