"""What Dion does where a step has no direction, and with what it leaves over."""

import jax
import jax.numpy as jnp
import numpy as np

import trainkit.transforms as tt


def run(tx, params, gradients):
    update, state, out = jax.jit(tx.update), tx.init(params), []
    for g in gradients:
        u, state = update(g, state, params)
        out.append(u)
    return out, state


def test_what_a_step_leaves_over_comes_later():
    """Of rank 1 on a constant gradient with the singular values 4 and 1: in time both are stepped
    along, and what is in the momentum stays bounded."""
    left, right = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 5, 2)))[0]
    g = {"w": jnp.asarray((left * [4.0, 1.0]) @ right.T, jnp.float32)}
    params = {"w": jnp.zeros((5, 5))}
    out, state = run(tt.dion(1.0, 0.5, rank_fraction=0.2), params, [g] * 60)
    total = -np.asarray(sum(u["w"] for u in out))
    along = np.diag(left.T @ total @ right)
    assert all(np.linalg.matrix_rank(u["w"], tol=1e-3) == 1 for u in out)
    assert np.all(along > 5)
    assert np.linalg.norm(state[0].mu["w"]) < 20
    np.testing.assert_allclose(total, (left * along) @ right.T, atol=2)


def test_directions_that_a_gradient_has_not_are_not_stepped_along():
    """Of full rank on gradients of rank 1, in float32: rounding is no direction."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.zeros((6, 4))}
    g = {"w": jnp.asarray(np.outer(rng.normal(size=6), rng.normal(size=4)), jnp.float32)}
    out, state = run(tt.dion(1.0, rank_fraction=1.0), params, [g] * 3)
    unit = np.asarray(g["w"]) / np.linalg.norm(g["w"])
    for u in out:
        np.testing.assert_allclose(u["w"], -((4 / 6) ** 0.5) * unit, atol=1e-5)
    assert np.linalg.matrix_rank(state[0].right_factor["w"]) == 4  # the others wait


def test_zero_gradients_at_first_change_nothing():
    params = {"w": jnp.zeros((6, 4)), "b": jnp.zeros(4)}
    zero, some = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.ones_like, params)
    tx = tt.dion(1.0)
    (still, first), _ = run(tx, params, [zero, some])
    assert not still["w"].any()
    (at_once,), _ = run(tx, params, [some])
    np.testing.assert_allclose(first["w"], at_once["w"], atol=1e-6)


def test_the_key_draws_the_first_factor_and_leaves_of_one_shape_are_alike():
    params = {"a": jnp.zeros((6, 4)), "b": jnp.zeros((6, 4)), "c": jnp.zeros((4, 6))}
    first = lambda key: tt.dion(1.0, key=key).init(params)[0].right_factor
    one, again, other = first(0), first(jax.random.key(0)), first(1)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one, again))
    assert jnp.array_equal(one["a"], one["b"])
    assert not jnp.array_equal(one["a"], other["a"])
    assert [x.shape for x in one.values()] == [(6, 1), (6, 1), (4, 1)]


def test_what_is_no_matrix_gets_adam():
    params = {"s": jnp.ones(()), "v": jnp.ones(3), "t": jnp.ones((2, 3, 4))}
    rng = np.random.default_rng(0)
    draw = lambda: jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
    gradients = [draw() for _ in range(3)]
    found, _ = run(tt.dion(0.1), params, gradients)
    wanted, _ = run(tt.adam(0.1, b2=0.95), params, gradients)
    for f, w in zip(found, wanted, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), f, w)
