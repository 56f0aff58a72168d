"""How the leaves of a state become arrays on disk, by name, and come back as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name

PyTree = Any


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves by names that are all different.

    >>> sorted(leaves_by_name({"a/b": 1, "a": {"b": 2}}))
    ['a/b', "a/b'"]
    """
    return {name: leaf for name, (_, leaf) in _named(tree).items()}


def paths_by_name(tree: PyTree) -> dict[str, tuple[Any, ...]]:
    """The way to each leaf, by the names of `leaves_by_name`."""
    return {name: path for name, (path, _) in _named(tree).items()}


def _named(tree: PyTree) -> dict[str, tuple[tuple[Any, ...], Any]]:
    names: dict[str, tuple[tuple[Any, ...], Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path) or "state"
        # A key with a slash in it can look like a path of two.
        while name in names:
            name += "'"
        names[name] = path, leaf
    return names


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a random key."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def key_kind(key: Any) -> str:
    """The name of a random key's generator, to be written down."""
    return str(jax.random.key_impl(key))


def data_of(leaf: Any) -> Any:
    """The plain array of a leaf: a random key's words, a Python number's array."""
    if is_key(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def on_host(leaf: Any) -> Any:
    """The plain array of a leaf on the host, in memory of its own."""
    data = data_of(leaf)
    if isinstance(data, jax.Array) and not data.is_fully_addressable:
        # Of several processes: each writes the parts it has, on CPU of a copy, as below.
        device: Any = next(iter(data.sharding.device_set))
        return jnp.copy(data) if device.platform == "cpu" else data
    # A copy always: on CPU NumPy would look into the very buffer that the next step is given to
    # write its result in, while Orbax is still writing it to disk.
    return np.array(data, copy=True)


def all_on_host(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The plain arrays of some leaves on the host, all fetched at once."""
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array) and not is_key(leaf) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()
    return {name: on_host(leaf) for name, leaf in leaves.items()}


def placed_shape(leaf: Any) -> Any:
    """The shape, dtype and sharding that a leaf is to be restored with; an array on the host."""
    data = data_of(leaf)
    if isinstance(data, np.ndarray | np.generic):
        # Not through JAX, which would make 32 bits of 64.
        return np.empty(data.shape, data.dtype)
    sharding = getattr(data, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def from_array(array: Any, like: Any, kind: str | None) -> Any:
    """The leaf that a plain array stands for: a key of a kind, a Python number, an array."""
    if is_key(like):
        key = jax.random.wrap_key_data(array, impl=kind)
        sharding = getattr(like, "sharding", None)
        if sharding is None or sharding.is_equivalent_to(key.sharding, key.ndim):
            return key
        return jax.device_put(key, sharding)
    if isinstance(like, bool | int | float | complex):
        return type(like)(array.item())
    return array
