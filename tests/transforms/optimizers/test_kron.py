"""What PSGD's factors come to, and what they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit.transforms as tt


def run(tx, params, draw, steps):
    """The state after so many steps, on gradients that are drawn from the number of the step."""

    @jax.jit
    def go(state):
        step = lambda s, t: (tx.update(draw(t), s, params)[1], None)
        return jax.lax.scan(step, state, jnp.arange(steps))[0]

    return go(tx.init(params))


def applied(factors, x):
    for axis, q in enumerate(factors):
        q = np.diag(q) if q.ndim == 1 else np.asarray(q)
        x = np.moveaxis(np.tensordot(q.T @ q, x, (1, axis)), 0, axis)
    return x


@pytest.mark.parametrize("kind", ["matrix", "tensor", "diagonal", "vector"])
def test_p_comes_to_whiten_gradients(kind):
    """Of G = A Z B with normal Z, whose covariance is a Kronecker product: that of P G is 1."""
    shape = {"matrix": (4, 3), "tensor": (3, 2, 2), "diagonal": (4, 3), "vector": (6,)}[kind]
    rng = np.random.default_rng(0)
    mixed = kind in ("matrix", "tensor")
    sides = [
        rng.normal(size=(n, n)) + n**0.5 * np.eye(n) if mixed else np.diag(rng.uniform(0.1, 5, n))
        for n in shape
    ]

    def turned(z):
        for axis, side in enumerate(sides):
            z = jnp.moveaxis(jnp.tensordot(jnp.asarray(side, z.dtype), z, (1, axis)), 0, axis)
        return z

    draw = lambda t: turned(jax.random.normal(jax.random.fold_in(jax.random.key(1), t), shape))
    tx = tt.kron(0.1, precond_learning_rate=0.01, max_precond_dim=1 if kind == "diagonal" else 99)
    factors = run(tx, jnp.zeros(shape), draw, 4000)[0].factors
    sizes = [q.ndim for q in factors]
    assert sizes == [2 if mixed else 1] * len(shape)
    white = np.stack([applied(factors, np.asarray(draw(10**5 + t))).ravel() for t in range(2000)])
    covariance = white.T @ white / len(white)
    # 2000 samples leave 1/√2000 = .02 in every entry, and steps of κ = .01 about √κ = .1 in Q.
    assert np.abs(covariance - np.eye(len(covariance))).max() < 0.45
    assert abs(np.trace(covariance) / len(covariance) - 1) < 0.15
    assert np.all([np.array_equal(q, np.triu(q)) for q in factors if q.ndim == 2])


def test_a_run_can_be_repeated_and_the_key_counts():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 2))}
    draw = lambda t: jax.tree.map(lambda p: p * (1 + t.astype(p.dtype)), params)
    one, again, other = (run(tt.kron(0.1, key=k), params, draw, 5)[0] for k in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one, again))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one.factors["a"], one.factors["b"]))
    assert not jnp.array_equal(one.factors["a"][0], other.factors["a"][0])


def test_factors_are_fitted_in_turn():
    params = {"w": jnp.ones((3, 2)), "s": jnp.ones(())}
    tx = tt.kron(0.1, precondition_frequency=3)
    draw = lambda t: jax.tree.map(lambda p: p * (1 + t.astype(p.dtype)), params)
    seen = [run(tx, params, draw, n)[0].factors for n in range(1, 5)]
    assert [jnp.array_equal(seen[0]["w"][0], x["w"][0]) for x in seen] == [True, True, True, False]
    assert [jnp.array_equal(seen[0]["s"][0], x["s"][0]) for x in seen] == [True, True, True, False]
    sizes = [float(jnp.abs(q).max()) for q in seen[-1]["w"]]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-5)


def test_the_first_step_has_the_rate_as_its_root_mean_square():
    tx, shapes = tt.kron(0.5, precond_learning_rate=0.0), {"w": (4, 3), "t": (2, 3, 2), "s": ()}
    rng = np.random.default_rng(0)
    g = {k: jnp.asarray(1e-4 * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    u, _ = tx.update(g, tx.init(g), g)
    for k in shapes:
        assert float(jnp.sqrt(jnp.mean(u[k] ** 2))) == pytest.approx(0.5, rel=1e-5)
        np.testing.assert_allclose(u[k] * jnp.linalg.norm(g[k]), -g[k] * jnp.linalg.norm(u[k]),
                                   rtol=1e-4)  # fmt: skip
    zero = jax.tree.map(jnp.zeros_like, g)
    u, _ = tx.update(zero, tx.init(g), g)
    assert not any(x.any() for x in jax.tree.leaves(u))
