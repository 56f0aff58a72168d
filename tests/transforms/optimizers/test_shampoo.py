"""What Shampoo's arguments do, leaf by leaf."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit.transforms as tt

SHAPES = {"w": (4, 3), "v": (5,), "s": (), "t": (2, 3, 4)}


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def run(tx, gradients):
    update, state, out = jax.jit(tx.update), tx.init(gradients[0]), []
    for g in gradients:
        u, state = update(g, state, gradients[0])
        out.append(u)
    assert update._cache_size() == 1
    return out, state


GRADIENTS = [draw(i) for i in range(8)]
LIKE = {
    "sgd": lambda: tt.chain(tt.momentum(0.1, 0.0, "average")),
    "adagrad": lambda: tt.adagrad(0.1, 0.0, eps=0.0),
    "adam": lambda: tt.adam(0.1, b1=0.0),
}


@pytest.mark.parametrize("graft", LIKE)
def test_steps_are_as_long_as_those_of_the_grafted_rule(graft):
    """And are that rule's until the fourth step."""
    tx = tt.shampoo(
        0.1, b1=0.0, graft=graft, precondition_frequency=2, start_preconditioning_step=4
    )
    found, wanted = run(tx, GRADIENTS)[0], run(LIKE[graft](), GRADIENTS)[0]
    for t, (f, w) in enumerate(zip(found, wanted, strict=True), 1):
        for name in SHAPES:
            sizes = [np.linalg.norm(x[name]) for x in (f, w)]
            assert sizes[0] == pytest.approx(sizes[1], rel=1e-5)
            same = np.allclose(f[name], w[name], rtol=1e-4)
            assert same == (t < 4 or name == "s"), (t, name)


def test_a_leaf_without_short_axes_is_trained_by_the_grafted_rule():
    found, state = run(tt.shampoo(0.1, max_precond_dim=2, precondition_frequency=1), GRADIENTS)
    wanted, _ = run(tt.adam(0.1), GRADIENTS)
    kinds = {k: [h is not None for h in state[0].gg[k]] for k in SHAPES}
    assert kinds == {"w": [False] * 2, "v": [False], "s": [], "t": [True, False, False]}
    for f, w in zip(found, wanted, strict=True):
        for name in "wvs":
            np.testing.assert_allclose(f[name], w[name], rtol=1e-4)


def test_one_side_alone_has_the_root_of_a_vector():
    """[3, 9] with 3 × 3 alone: (G Gᵀ)^(−1/2) G, whose singular values are 1 at the first step."""
    g = draw(0, {"w": (3, 9)})
    tx = tt.shampoo(1.0, b1=0.0, sums=True, graft=None, max_precond_dim=8)
    ((u,), _) = run(tx, [g])
    np.testing.assert_allclose(np.linalg.svd(u["w"], compute_uv=False), 1, rtol=1e-4)


def test_roots_wait_for_their_turn_and_matrices_do_not():
    tx = tt.shampoo(0.1, precondition_frequency=3)
    states = [run(tx, GRADIENTS[:n])[1][0] for n in range(1, 7)]
    roots = [s.roots["w"][0] for s in states]
    assert jnp.array_equal(roots[0], jnp.eye(4))
    moved = [not jnp.array_equal(a, b) for a, b in itertools.pairwise(roots)]
    assert moved == [False, True, False, False, True]
    whole = sum(
        0.001 * 0.999 ** (5 - i) * GRADIENTS[i]["w"] @ GRADIENTS[i]["w"].T for i in range(6)
    )
    np.testing.assert_allclose(states[-1].gg["w"][0], whole, rtol=1e-4)


@pytest.mark.parametrize("graft", [None, "adam"])
def test_a_gradient_of_rank_one_in_float32(graft):
    """Eigenvalues below what float32 tells from 0 do not blow rounding up."""
    rng = np.random.default_rng(0)
    g = {"w": jnp.asarray(1e3 * np.outer(rng.normal(size=64), rng.normal(size=32)), jnp.float32)}
    make = lambda: tt.shampoo(1.0, graft=graft, start_preconditioning_step=1)
    unit = np.asarray(g["w"]) / np.linalg.norm(g["w"])
    for u in run(make(), [g] * 3)[0]:
        off = np.asarray(u["w"]) / np.linalg.norm(u["w"]) + unit
        assert np.linalg.norm(off) < 1e-3


def test_bfloat16_goes_where_float32_does():
    """One gradient 40 times: its matrix has one direction, and rounding in all the others."""
    rng = np.random.default_rng(0)
    g = {"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.bfloat16)}
    make = lambda: tt.shampoo(0.01, eps=1e-2, precondition_frequency=7)
    wide = run(make(), [{"w": g["w"].astype(jnp.float32)}] * 40)[0]
    low, state = run(make(), [g] * 40)
    assert state[0].gg["w"][0].dtype == jnp.float32
    for a, b in zip(wide, low, strict=True):
        a, b = np.asarray(a["w"], np.float64), np.asarray(b["w"].astype(jnp.float32), np.float64)
        assert np.sum(a * b) > 0.99 * np.linalg.norm(a) * np.linalg.norm(b)  # 0.14 rad
