"""Transformations of a batch: pure, jittable functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation

PyTree = Any


def normalise(
    x: jax.Array, mean: jax.typing.ArrayLike = 0.0, std: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    """(x − mean) / std in float32; uint8 values are first scaled to 0 … 1.

    Args:
      x: array of any shape; uint8 values become x / 255.
      mean, std: scalars, or arrays that broadcast against the last axes of `x`.

    >>> normalise(jnp.array([0, 255], jnp.uint8), mean=0.5, std=0.5)
    Array([-1.,  1.], dtype=float32)
    """
    for name, value in (("mean", mean), ("std", std)):
        if validation.concrete(value) is not None or np.ndim(value) == 0:
            validation.number(name, value, "normalise", above=0 if name == "std" else None)
    scale = 255.0 if x.dtype == jnp.uint8 else 1.0
    x = x.astype(jnp.float32) / scale
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (x - mean) / std


def one_hot(labels: jax.Array, classes: int, dtype: Any = jnp.float32) -> jax.Array:
    """1 at the label and 0 elsewhere along a new last axis; all 0 for a label out of range.

    >>> one_hot(jnp.array([1, 0]), 3)
    Array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    validation.integer("classes", classes, "one_hot")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, not {labels.dtype}; one_hot counts classes.")
    return (labels[..., None] == jnp.arange(classes, dtype=labels.dtype)).astype(dtype)


def pad_batch(batch: PyTree, size: int) -> tuple[PyTree, jax.Array]:
    """Pads a batch of n ≤ size examples with zeros: `(batch, mask)`, mask (size,) float32.

    The mask is 1 for the n examples and 0 for the padding, so that a loss weighted by it is the
    loss of the unpadded batch.

    >>> batch, mask = pad_batch({"x": jnp.array([1, 2])}, 3)
    >>> batch["x"], mask
    (Array([1, 2, 0], dtype=int32), Array([1., 1., 0.], dtype=float32))
    """
    validation.integer("size", size, "pad_batch")
    n = validation.leading_size(batch, "batch")
    if n > size:
        raise ValueError(
            f"pad_batch: size={size} must be at least that of the batch, {n}; give the size of the "
            "largest batch."
        )

    def pad(leaf):
        return jnp.pad(leaf, [(0, size - n)] + [(0, 0)] * (leaf.ndim - 1))

    return jax.tree.map(pad, batch), (jnp.arange(size) < n).astype(jnp.float32)


def pad_image(images: jax.Array, padding: int) -> jax.Array:
    """Pads the two spatial axes of (…, height, width, channels) images with zeros.

    >>> pad_image(jnp.ones((1, 2, 2, 1)), 1).shape
    (1, 4, 4, 1)
    """
    validation.integer("padding", padding, least=0)
    if images.ndim < 3:
        raise ValueError(f"images of shape {images.shape} lack (height, width, channels) axes.")
    sides = [(0, 0)] * (images.ndim - 3) + [(padding, padding)] * 2 + [(0, 0)]
    return jnp.pad(images, sides)


def random_shift(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Shifts each image by a random offset of up to ±pixels along both axes, filling with zeros.

    Args:
      key: a random key.
      images: (n, height, width, channels), any dtype.
      pixels: the largest offset, 0 or more; offsets are uniform on −pixels … pixels.

    >>> images = jnp.ones((2, 4, 4, 1))
    >>> random_shift(jax.random.key(0), images, 1).shape
    (2, 4, 4, 1)
    """
    validation.random_key("key", key, "random_shift", seeds=False)
    validation.integer("pixels", pixels, "random_shift", least=0)
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {images.shape}; expected (n, height, width, channels)."
        )
    padded = pad_image(images, pixels)
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)

    def shift(image, offset):
        zero = jnp.zeros((), offset.dtype)
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], zero), images.shape[1:])

    return jax.vmap(shift)(padded, offsets)
