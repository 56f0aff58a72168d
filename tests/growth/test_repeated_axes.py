"""One axis that occurs several times in a parameter, and products of parameters that are split.

The references are the functions themselves, in float64, and the gradients that JAX computes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.checking import names, predicted
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(5, 3))
TOLERANCE = 1e-12  # rounding of a few hundred float64 operations, at values of about 1


def hidden(p):
    return jnp.tanh(X @ p["in"])


def bilinear(p):
    """hᵀ A h, with the matrix A stored as a vector."""
    h, n = hidden(p), p["in"].shape[1]
    return jnp.einsum("bi,ij,bj->b", h, p["a"].reshape(n, n), h)


def outer(p):
    """A dense layer that reads the flattened h hᵀ."""
    h = hidden(p)
    return (h[:, :, None] * h[:, None, :]).reshape(5, -1) @ p["a"]


def powers(p):
    """A dense layer that reads h beside the flattened h hᵀ."""
    h = hidden(p)
    squares = (h[:, :, None] * h[:, None, :]).reshape(5, -1)
    return jnp.concatenate([h, squares], axis=1) @ p["a"]


def hidden_matrix(p):
    """A layer between hidden units, with its matrix stored as a vector."""
    h, n = hidden(p), p["in"].shape[1]
    return jnp.tanh(h + h @ p["a"].reshape(n, n)) @ p["out"]


def diagonal(p):
    h = hidden(p)
    return h @ jnp.diagonal(p["a"]) + jnp.einsum("bi,ij,bj->b", h, p["a"], h)


def trace(p):
    h = hidden(p)
    return jnp.trace(p["a"]) + jnp.einsum("bi,ij,bj->b", h, p["a"], h)


def with_itself(p):
    """hᵀ (A ∘ Aᵀ) h: A is split along its rows, and Aᵀ along its columns."""
    h = hidden(p)
    return jnp.einsum("bi,ij,bj->b", h, p["a"] * p["a"].T, h)


def in_two_ways(p):
    """Σ A[d, h] · B[d, h]: a term that A and B take makes A split along d, and B along h."""
    h, g = hidden(p), jnp.sin(X @ p["more"])
    a, b = p["a"] + p["u"][:, None], p["b"] + p["v"]
    return jnp.einsum("xd,xh,dh,dh->x", h, g, a, b)


def in_two_ways_flat(p):
    """The same with A and B stored as sums over rows of one axis d·h."""
    d, h = p["in"].shape[1], p["more"].shape[1]
    a, b = (p[name].sum(1).reshape(d, h) for name in "ab")
    return in_two_ways({**p, "a": a, "b": b})


def shapes(n):
    one = {"in": (3, n)}
    two = {**one, "more": (3, n + 1), "u": (n,), "v": (n + 1,)}
    flat = (n * (n + 1), 2)
    return {
        bilinear: {**one, "a": (n * n,)},
        outer: {**one, "a": (n * n, 2)},
        powers: {**one, "a": (n + n * n, 2)},
        hidden_matrix: {**one, "a": (n * n,), "out": (n, 2)},
        diagonal: {**one, "a": (n, n)},
        trace: {**one, "a": (n, n)},
        with_itself: {**one, "a": (n, n)},
        in_two_ways: {**two, "a": (n, n + 1), "b": (n, n + 1)},
        in_two_ways_flat: {**two, "a": flat, "b": flat},
    }


def draw(sizes):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in sizes.items()}


def planned(fn, n, m):
    small, big = draw(shapes(n)[fn]), draw(shapes(m)[fn])
    return small, growth.plan(lambda p, _: fn(p), lambda p, _: fn(p), small, big, X[0])


SIZES = [(2, 3), (2, 4)]
CASES = [(fn, *sizes) for fn in shapes(2) for sizes in SIZES]


@pytest.mark.parametrize(("fn", "n", "m"), CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_every_operator_keeps_the_function(fn, n, m):
    small, plan = planned(fn, n, m)
    wanted, slope = fn(small), jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(fn(p)))))
    old, key = names(slope(small)), jax.random.key(0)
    for how in ("even", "uneven", "noise", "zero_out"):
        grown = plan.grow(small, key=key, how=how)
        np.testing.assert_allclose(fn(grown), wanted, atol=TOLERANCE, err_msg=how)
        new = names(slope(grown))
        for path, leaf in plan.realise(key, how).leaves.items():
            if leaf.exact_gradient:
                value, known = predicted(old[path], leaf)
                np.testing.assert_allclose(
                    new[path][known], value[known], atol=TOLERANCE, err_msg=f"{how} {path}"
                )


@pytest.mark.parametrize(("n", "m"), [(2, 3), (2, 4), (3, 7)])
def test_a_trace_has_no_copies_but_new_units(n, m):
    """Σ ρ² Aᵢᵢ over copies with shares ρ is not Aᵢᵢ; with 0 in new rows and columns it is."""
    small, plan = planned(trace, n, m)
    new = np.setdiff1d(np.arange(m), np.flatnonzero(np.diagonal(plan.grow(small, key=0)["a"])))
    assert len(new) == m - n
    a = np.asarray(plan.grow(small, key=0)["a"])
    assert not a[new].any()
    assert not a[:, new].any()


def noise(fn):
    """What "noise" adds to each leaf."""
    small, plan = planned(fn, 2, 4)
    even, noisy = (plan.grow(small, key=jax.random.key(0), how=how) for how in ("even", "noise"))
    return {name: np.asarray(noisy[name] - even[name]) for name in even}


def test_noise_of_a_matrix_that_multiplies_its_transpose():
    """It sums to 0 over the copies of a row, and is equal for the copies of a column."""
    added = noise(with_itself)["a"].reshape(2, 2, 2, 2)
    assert np.abs(added).max() > 0.01
    np.testing.assert_allclose(added.sum(1), 0, atol=TOLERANCE)
    np.testing.assert_allclose(added[..., 0], added[..., 1], atol=TOLERANCE)


def test_noise_that_would_not_cancel_is_left_out():
    """In one axis d·h the noise of B cannot be equal along d and sum to 0 along h."""
    added = noise(in_two_ways_flat)
    assert sorted(np.abs(added[name]).max() > 0.01 for name in "ab") == [False, True]
