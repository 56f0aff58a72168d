"""Random values that are made where they are used."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.maps.draw import normal


def places(*shape):
    return [np.arange(n, dtype=np.uint32) for n in shape]


def test_normal_and_independent():
    x = np.asarray(normal(jax.random.key(0), places(200, 300), jnp.float32), np.float64)
    assert np.isfinite(x).all()
    # 60,000 draws: five standard errors.
    assert abs(x.mean()) < 5 / np.sqrt(x.size)
    assert abs((x**2).mean() - 1) < 5 * np.sqrt(2 / x.size)
    assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / x.size)
    assert np.abs(x).max() < 6
    for a, b in [
        (x[1:], x[:-1]),
        (x[:, 1:], x[:, :-1]),
        (x[:, 7:], x[:, :-7]),
        (x[1:, 1:], x[:-1, :-1]),
    ]:
        assert abs((a * b).mean()) < 5 / np.sqrt(a.size)
    # Rows and columns are told apart.
    y = np.asarray(normal(jax.random.key(0), places(200, 200), jnp.float32), np.float64)
    assert abs((y * y.T)[~np.eye(200, dtype=bool)].mean()) < 5 / np.sqrt(y.size)


def test_a_function_of_key_and_place():
    a, b = (normal(jax.random.key(s), places(8, 9), jnp.float32) for s in (0, 1))
    assert jnp.abs(a - b).min() > 0
    again = jax.jit(lambda k: normal(k, places(8, 9), jnp.float32))(jax.random.key(0))
    np.testing.assert_array_equal(a, again)
    where = [np.array([0, 3, 3], np.uint32), np.arange(9, dtype=np.uint32)]
    np.testing.assert_array_equal(
        normal(jax.random.key(0), where, jnp.float32), a[np.array([0, 3, 3])]
    )


def test_values_stay_those_of_the_published_hash():
    """So that one key grows one model in every release. The tolerance is that of `erf_inv`."""
    key, wanted = np.array([0, 7], np.uint32), np.zeros((2, 3))
    for i, j in np.ndindex(2, 3):
        bits = int(key[0])
        for at in (i, j):
            bits ^= (at * 0x9E3779B9 + int(key[1])) % 2**32
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
                bits = (bits ^ bits >> shift) * factor % 2**32
        wanted[i, j] = NormalDist().inv_cdf((2 * (bits >> 9) + 1) / 2**24)
    found = normal(jax.random.wrap_key_data(key), places(2, 3), jnp.float32)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
