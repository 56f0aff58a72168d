"""Functions of a batch, under jit and against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit.data import normalise, one_hot, pad_batch, pad_image, random_shift

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (5, 6, 7, 2), dtype=np.uint8)


def test_normalise_is_the_formula_in_float32():
    mean, std = np.array([0.2, 0.4]), np.array([0.5, 2.0])
    out = jax.jit(normalise)(IMAGES, mean, std)
    assert out.dtype == jnp.float32
    # float32 rounding of values of size at most 4.
    np.testing.assert_allclose(out, (IMAGES / 255 - mean) / std, atol=1e-6)
    floats = RNG.normal(size=(3, 2)).astype(np.float32)
    np.testing.assert_allclose(
        normalise(jnp.asarray(floats), mean, std), (floats - mean) / std, atol=1e-6
    )


def test_one_hot_is_rows_of_the_identity():
    labels = jnp.array([[2, 0], [1, 3]])
    np.testing.assert_array_equal(jax.jit(lambda x: one_hot(x, 4))(labels), np.eye(4)[labels])
    assert not one_hot(jnp.array([7, -1]), 4).any()
    assert one_hot(labels, 4, jnp.bfloat16).dtype == jnp.bfloat16


def test_a_padded_batch_weighs_as_the_unpadded_one():
    batch = {"x": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), "y": jnp.arange(5)}
    padded, mask = jax.jit(pad_batch, static_argnums=1)(batch, 8)
    assert padded["x"].shape == (8, 3)
    assert padded["y"].dtype == batch["y"].dtype
    np.testing.assert_array_equal(mask, [1, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(padded["x"][:5], batch["x"])
    assert not padded["x"][5:].any()
    with pytest.raises(ValueError, match="size=4 must be at least that of the batch, 5"):
        pad_batch(batch, 4)


def test_pad_image_touches_the_spatial_axes_only():
    np.testing.assert_array_equal(
        pad_image(IMAGES, 2), np.pad(IMAGES, [(0, 0), (2, 2), (2, 2), (0, 0)])
    )
    with pytest.raises(ValueError, match=r"padding must be .*not -1"):
        pad_image(IMAGES, -1)


def test_random_shift_moves_each_image_and_fills_with_zeros():
    key = jax.random.key(3)
    out = np.asarray(jax.jit(random_shift, static_argnums=2)(key, IMAGES, 2))
    assert out.dtype == np.uint8
    found = []
    for image, moved in zip(IMAGES, out, strict=True):
        places = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if np.array_equal(moved, shifted(image, dy, dx))
        ]
        assert len(places) == 1  # the pixels are random and none is 0, so there is one way
        found += places
    assert len(set(found)) > 1
    np.testing.assert_array_equal(out, random_shift(key, IMAGES, 2))
    np.testing.assert_array_equal(random_shift(key, IMAGES, 0), IMAGES)


def shifted(image, dy, dx):
    out = np.zeros_like(image)
    height, width = image.shape[:2]
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                out[y, x] = image[y - dy, x - dx]
    return out


def test_every_offset_is_about_equally_likely():
    image = np.zeros((900, 3, 3, 1), np.float32)
    image[:, 1, 1] = 1
    out = np.asarray(random_shift(jax.random.key(0), image, 1))
    counts = out.sum(axis=0)[..., 0]
    # 100 expected at each of nine places, with a spread of 9.4.
    assert counts.sum() == 900
    assert (abs(counts - 100) < 5 * 9.4).all()


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\).*expected \(n, height, width, channels\)"):
        random_shift(jax.random.key(0), jnp.zeros((3, 4)), 1)
