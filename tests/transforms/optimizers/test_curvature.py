"""Second-order rules and SOAP against their references; Hessian products against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit.transforms as tt
from tests.transforms import references as r
from tests.transforms.cases import SOAP, before, decayed

STEPS = 100


def run(tx, params, gradients, extra=None):
    state = tx.init(params)

    def step(carry, g):
        p, s = carry
        u, s = tx.update(g, s, p, **(extra or {}))
        p = jax.tree.map(jnp.add, p, u)
        return (p, s), p

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    return jax.jit(lambda c, g: jax.lax.scan(step, c, g))((params, state), stacked)[1]


def worst(found, expected):
    error = 0.0
    for i, row in enumerate(expected):
        scale = max(1.0, *(np.abs(v).max() for v in row.values()))
        error = max([error] + [np.abs(np.asarray(found[k][i]) - v).max() for k, v in row.items()])
        error /= scale
    return error


def arrays(tree, dtype):
    return {k: jnp.asarray(v, dtype) for k, v in tree.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_sophia(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        hessian = {"w": rng.uniform(-1, 3, (4, 3)), "v": rng.uniform(0, 2, 5)}
        hessian = r.tree(np.float32, hessian)
        params = r.tree(lambda x: np.float32(rng.normal(size=x.shape)), hessian)
        gradients = [
            r.tree(lambda x: np.float32(rng.normal(size=x.shape)), params) for _ in range(STEPS)
        ]
        h = arrays(hessian, dtype)
        f = lambda p: sum(jnp.sum(h[k] * p[k] ** 2) / 2 for k in p)
        tx = tt.sophia(0.01, gamma=0.5, weight_decay=0.1, update_interval=3)
        found = run(
            tx, arrays(params, dtype), [arrays(g, dtype) for g in gradients], {"value_fn": f}
        )
        oracle = decayed(r.sophia(0.5, 3, lambda p: hessian, params), 0.01)
        assert worst(found, r.run(oracle, params, gradients)) <= tolerance


def test_soap(x64):
    rng = np.random.default_rng(1)
    params = {"w": rng.normal(size=(4, 4)), "v": rng.normal(size=5)}
    gradients = [r.tree(lambda x: rng.normal(size=x.shape), params) for _ in range(STEPS)]
    tx = tt.soap(0.01, weight_decay=0.1, precondition_frequency=7)
    found = run(tx, arrays(params, "float64"), [arrays(g, "float64") for g in gradients])
    assert worst(found, r.run(SOAP, params, gradients)) <= 1e-12


def test_soap_in_float32():
    # Rounding turns a basis by ε/(gap between eigenvalues), and a random matrix has small gaps: a
    # gradient with well separated singular values is what float32 can be held to 1e-5 on.
    rng = np.random.default_rng(1)
    params = {"w": np.float32(rng.normal(size=(4, 4))), "v": np.float32(rng.normal(size=5))}
    sizes = np.diag([8.0, 4.0, 2.0, 1.0])
    gradients = [
        {
            "w": np.float32(sizes @ rng.normal(size=(4, 4)) @ sizes),
            "v": np.float32(rng.normal(size=5)),
        }
        for _ in range(STEPS)
    ]
    tx = tt.soap(0.01, weight_decay=0.1, precondition_frequency=7)
    found = run(tx, arrays(params, "float32"), [arrays(g, "float32") for g in gradients])
    expected = r.run(SOAP, r.tree(np.float64, params), [r.tree(np.float64, g) for g in gradients])
    assert worst(found, expected) <= 1e-5


def test_soap_turns_with_its_problem(x64):
    """Turning the coordinates of a matrix on both sides turns the whole trajectory."""
    rng = np.random.default_rng(2)
    q, r = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    gradients = [{"w": jnp.asarray(rng.normal(size=(4, 4)))} for _ in range(20)]
    turned = [{"w": q @ g["w"] @ r.T} for g in gradients]
    start = {"w": jnp.asarray(rng.normal(size=(4, 4)))}
    tx = tt.soap(0.01, precondition_frequency=3)
    plain = run(tx, start, gradients)["w"]
    other = run(tx, {"w": q @ start["w"] @ r.T}, turned)["w"]
    assert jnp.abs(jnp.einsum("ij,tjk,lk->til", q, plain, r) - other).max() < 1e-10


def test_soap_on_every_shape():
    params = {
        "t": jnp.ones((2, 3, 4)),
        "s": jnp.ones(()),
        "z": jnp.ones((0, 3)),
        "r": jnp.ones((1, 5)),
    }
    tx = tt.soap(0.01, weight_decay=0.1)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(params, state, params)
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, state = update(zero, tx.init(params), params)
    assert not any(bool(jnp.any(u != 0)) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_lbfgs(dtype, tolerance):
    """On a convex quadratic: random gradients imply curvature of either sign."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(3)
        scale = {"v": np.linspace(1, 2, 4), "w": np.linspace(1, 3, 6).reshape(3, 2)}
        params = {k: np.float64(np.float32(rng.normal(size=v.shape))) for k, v in scale.items()}
        tx = tt.lbfgs(0.1, memory_size=4, linesearch=None)
        state = tx.init(arrays(params, dtype))
        slope = lambda q: r.tree(np.multiply, scale, q)
        expected = r.run(before(r.curvature.lbfgs(4, True)), params, [slope] * STEPS)
        p, update = arrays(params, dtype), jax.jit(tx.update)
        for q in expected:
            g = {k: jnp.asarray(scale[k], dtype) * p[k] for k in p}
            u, state = update(g, state, p)
            p = jax.tree.map(jnp.add, p, u)
            assert max(np.abs(np.asarray(p[k]) - q[k]).max() for k in q) <= tolerance


def logistic(dtype):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(30, 5)), dtype)
    y = jnp.asarray(rng.integers(0, 2, 30), dtype)
    return (
        x,
        lambda p: jnp.mean(jax.nn.softplus(x @ p["w"]) - y * (x @ p["w"])) + jnp.sum(p["w"] ** 2),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_newton_cg_against_a_direct_solve(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, f = logistic(dtype)

        def hessian(w):
            z = np.asarray(x, np.float64)
            s = 1 / (1 + np.exp(-z @ w))
            return z.T @ (z * (s * (1 - s))[:, None]) / len(z) + 2 * np.eye(len(w))

        rng = np.random.default_rng(5)
        params = {"w": np.float64(np.float32(rng.normal(size=5)))}
        gradients = [{"w": np.float64(np.float32(rng.normal(size=5)))} for _ in range(STEPS)]
        tx = tt.newton_cg(0.05, damping=0.1, tol=0.0, max_iterations=20)
        found = run(
            tx,
            arrays(params, dtype),
            [arrays(g, dtype) for g in gradients],
            {"value_fn": f},
        )
        expected = r.run(before(r.curvature.newton(0.1, hessian), 0.05), params, gradients)
        assert worst(found, expected) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_gauss_newton_against_a_direct_solve(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, _ = logistic(dtype)
        residuals = lambda p: jnp.tanh(x @ p["w"])

        def matrix(w):
            z = np.asarray(x, np.float64)
            j = z * (1 - np.tanh(z @ w) ** 2)[:, None]
            return j.T @ j

        rng = np.random.default_rng(5)
        params = {"w": np.float64(np.float32(rng.normal(size=5)))}
        gradients = [{"w": np.float64(np.float32(rng.normal(size=5)))} for _ in range(STEPS)]
        tx = tt.gauss_newton(0.05, damping=1.0, tol=0.0, max_iterations=20)
        found = run(
            tx,
            arrays(params, dtype),
            [arrays(g, dtype) for g in gradients],
            {"residual_fn": residuals},
        )
        expected = r.run(before(r.curvature.newton(1.0, matrix), 0.05), params, gradients)
        assert worst(found, expected) <= tolerance


def test_products_against_dense_matrices(x64):
    x, f = logistic("float64")
    w = jnp.linspace(-1, 1, 5)
    v = jnp.linspace(2, 1, 5)
    g = lambda w: f({"w": w})
    assert jnp.abs(tt.hvp(g, w, v) - jax.hessian(g)(w) @ v).max() < 1e-12
    outputs = lambda w: x @ w
    loss = lambda z: jnp.sum(jax.nn.softplus(z))
    dense = jax.hessian(lambda w: loss(outputs(w)))(w)  # linear outputs: Gauss-Newton is exact
    assert jnp.abs(tt.gnvp(outputs, w, v, loss) - dense @ v).max() < 1e-12


def test_newton_descends_where_curvature_is_negative(x64):
    f = lambda p: jnp.sum(jnp.cos(p))
    p = jnp.array([0.3, 0.1])
    tx = tt.newton_cg()
    u, _ = tx.update(jax.grad(f)(p), tx.init(p), p, value_fn=f)
    assert jnp.vdot(u, jax.grad(f)(p)) < 0


def test_newton_at_a_stationary_point_stays():
    f = lambda p: jnp.sum(p**2)
    p = jnp.zeros(3)
    tx = tt.newton_cg()
    u, state = tx.update(jax.grad(f)(p), tx.init(p), p, value_fn=f)
    assert u.tolist() == [0.0, 0.0, 0.0]
    assert int(state.iterations) == 0


@pytest.mark.parametrize(
    ("tx", "missing"),
    [
        (tt.newton_cg(), "value_fn"),
        (tt.gauss_newton(), "residual_fn"),
        (tt.sophia(0.1), "value_fn"),
        (tt.lbfgs(), "value_fn"),
    ],
)
def test_the_function_that_is_missing_is_named(tx, missing):
    p = jnp.ones(3)
    with pytest.raises(ValueError, match=missing):
        tx.update(p, tx.init(p), p)
