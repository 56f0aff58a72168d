"""Global arrays over several processes, from replicated values or from each process's share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from trainkit._core.buffers import owned
from trainkit._core.processes import alone

PyTree = Any


def is_global(x: Any) -> bool:
    """Whether an array also has devices of other processes."""
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def is_placed(tree: PyTree, sharding: Sharding) -> bool:
    """Whether every array is committed to exactly the devices of a sharding."""
    return all(
        isinstance(x, jax.Array) and x.committed and x.sharding.device_set == sharding.device_set
        for x in jax.tree.leaves(tree)
    )


def from_whole(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays with these shardings, from values that are the same in every process.

    Args:
      tree: NumPy arrays, or JAX arrays on any devices.
      shardings: a tree of shardings, or one for all leaves.
    """
    if alone():
        return jax.device_put(tree, shardings)
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_from_replicated, tree, shardings)


def _from_replicated(x: Any, sharding: Sharding) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        words = _from_replicated(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
    if sharding.is_fully_addressable:
        return jax.device_put(_addressable(x), sharding)
    if is_global(x):
        return jax.device_put(x, sharding)
    host = np.array(x, copy=True)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def on_own_device(tree: PyTree) -> PyTree:
    """Copies on one device of this process; with a single process, the tree itself."""
    if alone():
        return tree
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: _from_replicated(jnp.copy(x), one), tree)


def _addressable(x: Any) -> Any:
    """The whole array, addressable by this process."""
    if not is_global(x):
        return x
    if not x.is_fully_replicated:
        x = jax.device_put(x, NamedSharding(_process_mesh(), PartitionSpec()))
    return x.addressable_data(0)


def from_shares(tree: PyTree, sharding: Sharding, axis: int) -> PyTree:
    """A global batch with this sharding, from each process's share of the examples.

    The shares follow each other in the order of the processes, as in `Sampler`.

    Args:
      tree: this process's share.
      sharding: the sharding of the result.
      axis: the axis of the examples.
    """
    tree = owned(tree)
    if alone():
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: _from_share(x, sharding, axis), tree)


def joined_shapes(shapes: PyTree, axis: int, sharding: Sharding | None = None) -> PyTree:
    """The `jax.ShapeDtypeStruct`s of the result of `from_shares`, for shares of these shapes."""
    count = jax.process_count()
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (*x.shape[:axis], x.shape[axis] * count, *x.shape[axis + 1 :]),
            x.dtype,
            sharding=sharding,
        ),
        shapes,
    )


def _from_share(x: Any, sharding: Sharding, axis: int) -> jax.Array:
    host, count = np.asarray(x), jax.process_count()
    own = host.shape[axis]
    shape = (*host.shape[:axis], own * count, *host.shape[axis + 1 :])
    first = own * jax.process_index()
    if not _is_process_local(sharding, shape, axis, own):
        # Devices of this process need examples of other processes.
        by_process = PartitionSpec(*[None] * axis, "process")
        return _from_replicated(
            _from_share(x, NamedSharding(_process_mesh(), by_process), axis), sharding
        )

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[axis].indices(shape[axis])
        return host[(*index[:axis], slice(start - first, stop - first), *index[axis + 1 :])]

    return jax.make_array_from_callback(shape, sharding, part)


def _is_process_local(sharding: Sharding, shape: tuple[int, ...], axis: int, own: int) -> bool:
    """Whether every device only needs examples of its own process; the same in all processes."""
    device: Any
    for device, index in sharding.devices_indices_map(shape).items():
        start, stop, _ = index[axis].indices(shape[axis])
        first = own * device.process_index
        if start < first or stop > first + own:
            return False
    return True


def _process_mesh() -> Mesh:
    processes = range(jax.process_count())
    return Mesh(np.array([jax.local_devices(p) for p in processes]), ("process", "device"))
