"""Random values that are made where they are used."""

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
