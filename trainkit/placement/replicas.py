"""One state from the states of several replicas: means, and the first replica's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trainkit._core.dtypes import upcast
from trainkit._core.paths import path_name
from trainkit._core.rounds import OUTER, takes_outer_steps

PyTree = Any
# Fields of states that are no vectors: the mean of two bases is none.
BASES = {"basis", "projector", "right_factor"}


def shares(weight: jax.Array, total: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """This replica's share of a mean: its weight over their sum, or all alike if that is 0."""
    devices = jnp.asarray(lax.axis_size(axes), total.dtype)
    return jnp.where(total == 0, 1 / devices, weight / jnp.where(total == 0, 1, total))


def mean(before: PyTree, after: PyTree, share: jax.Array, axes: tuple[str, ...]) -> PyTree:
    """b + Σ share · (x − b) of floats, and the first replica's value of all other leaves.

    By the difference to the value b before, which all have: what no replica has changed stays
    bitwise. In float32 at least. A replica without a share does not count, even if it is NaN.
    """

    def one(b: jax.Array, x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return first(x, axes)
        start, end = upcast((b, x))
        # A best loss so far is infinite before there is one.
        start = jnp.where(jnp.isfinite(start), start, 0)
        moved = jnp.where(share > 0, share.astype(end.dtype) * (end - start), 0)
        return (start + lax.psum(moved, axes)).astype(x.dtype)

    return jax.tree.map(one, before, after)


def first(tree: PyTree, axes: tuple[str, ...]) -> PyTree:
    """The first replica's leaves, on all of them."""

    def one(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                one(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        if x.dtype == jnp.bool:
            return one(x.astype(jnp.uint8)).astype(bool)
        return lax.psum(jnp.where(lax.axis_index(axes) == 0, x, jnp.zeros_like(x)), axes)

    return jax.tree.map(one, tree)


def optimizer_states(
    before: PyTree, after: PyTree, share: jax.Array, axes: tuple[str, ...], moments: str
) -> PyTree:
    """One optimizer state; what only outer steps change is the same everywhere already.

    Raises:
      ValueError: `moments` is "mean", and a leaf has none.
    """

    def join(old: PyTree, new: PyTree) -> PyTree:
        if moments == "first":
            return first(new, axes)
        # Scalars, such as a learning rate, stay bitwise. For arrays, the old ones would have to be
        # kept through all inner steps.
        start = jax.tree.map(lambda b, x: jnp.zeros_like(x) if x.ndim else b, old, new)
        return mean(start, new, share, axes)

    def one(old: Any, new: Any) -> Any:
        if not takes_outer_steps(new):
            return join(old, new)
        inner = [name for name in new._fields if name not in OUTER]
        return new._replace(**{n: join(getattr(old, n), getattr(new, n)) for n in inner})

    if moments == "mean":
        _have_a_mean(after)
    return jax.tree.map(one, before, after, is_leaf=takes_outer_steps)


def _have_a_mean(opt_state: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        codes = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.dtype.itemsize < 4 and leaf.ndim
        name = path_name(path)
        if codes or set(name.split("/")) & BASES:
            raise ValueError(
                f"opt_state/{name}, {leaf.dtype}{list(leaf.shape)}, has no mean over the replicas. "
                "Give placement=trainkit.placement.periodic(moments='first'), which goes on with "
                "the optimizer state of the first."
            )
