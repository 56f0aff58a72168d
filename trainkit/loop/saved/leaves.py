"""Conversion of the leaves of a state to named plain arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name

PyTree = Any


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """Name -> leaf, with unique names.

    >>> sorted(leaves_by_name({"a/b": 1, "a": {"b": 2}}))
    ['a/b', "a/b'"]
    """
    return {name: leaf for name, (_, leaf) in _named(tree).items()}


def paths_by_name(tree: PyTree) -> dict[str, tuple[Any, ...]]:
    """Name -> path of a leaf, by the names of `leaves_by_name`."""
    return {name: path for name, (path, _) in _named(tree).items()}


def _named(tree: PyTree) -> dict[str, tuple[tuple[Any, ...], Any]]:
    names: dict[str, tuple[tuple[Any, ...], Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path) or "state"
        # A key that contains a slash may give the name of another leaf.
        while name in names:
            name += "'"
        names[name] = path, leaf
    return names


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a random key."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def key_kind(key: Any) -> str:
    """The name of a random key's generator."""
    return str(jax.random.key_impl(key))


def data_of(leaf: Any) -> Any:
    """The plain array of a leaf: the data of a random key, a Python number as an array."""
    if is_key(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def on_host(leaf: Any) -> Any:
    """A copy of the plain array of a leaf on the host."""
    data = data_of(leaf)
    if isinstance(data, jax.Array) and not data.is_fully_addressable:
        # With several processes, each writes its own shards; on CPU, of a copy (see below).
        device: Any = next(iter(data.sharding.device_set))
        return jnp.copy(data) if device.platform == "cpu" else data
    # Always a copy: on CPU, NumPy would share the buffer, and the next step may reuse (donate) it
    # while Orbax is still writing it to disk.
    return np.array(data, copy=True)


def all_on_host(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the plain arrays of leaves on the host, fetched concurrently."""
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array) and not is_key(leaf) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()
    return {name: on_host(leaf) for name, leaf in leaves.items()}


def placed_shape(leaf: Any) -> Any:
    """The shape, dtype and sharding to restore a leaf with; a NumPy array for a host leaf."""
    data = data_of(leaf)
    if isinstance(data, np.ndarray | np.generic):
        # Not through JAX, which would reduce 64 bits to 32.
        return np.empty(data.shape, data.dtype)
    sharding = getattr(data, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def from_array(array: Any, like: Any, kind: str | None) -> Any:
    """The inverse of `data_of`: a random key, a Python number or an array, as in `like`."""
    if is_key(like):
        key = jax.random.wrap_key_data(array, impl=kind)
        sharding = getattr(like, "sharding", None)
        if sharding is None or sharding.is_equivalent_to(key.sharding, key.ndim):
            return key
        return jax.device_put(key, sharding)
    if isinstance(like, bool | int | float | complex):
        return type(like)(array.item())
    return array
