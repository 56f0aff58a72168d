"""Dense to experts, and more experts; float64, everything random."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import growth
from trainkit.growth import experts

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(6, 4))


def mixture(p, x, k, chosen_only):
    logits = x @ p["router"] + p["shift"]
    if chosen_only:
        top, which = jax.lax.top_k(logits, k)
        gates = jax.nn.softmax(top)
    else:
        gates, which = jax.lax.top_k(jax.nn.softmax(logits), k)
    one_hot = jax.nn.one_hot(which, p["router"].shape[1], dtype=x.dtype)
    combine = jnp.einsum("tk,tke->te", gates, one_hot)
    h = jax.nn.gelu(jnp.einsum("td,edf->tef", x, p["up"]) + p["b"])
    return jnp.einsum("tef,efd,te->td", h, p["down"], combine)


def draw(count, seed=0):
    sizes = {
        "router": (4, count), "shift": (count,), "up": (count, 4, 5), "b": (count, 5),
        "down": (count, 5, 3),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=size)) for name, size in sizes.items()}


@pytest.mark.parametrize("chosen_only", [True, False])
@pytest.mark.parametrize("symmetry", ["even", "uneven", "noise"])
def test_more_experts_are_exact(chosen_only, symmetry):
    small, big = draw(3), draw(6)
    plan = experts.more_experts(small, big, last="down")
    grown = plan.grow(small, key=jax.random.key(0), symmetry=symmetry)
    wanted = mixture(small, X, 2, chosen_only)
    np.testing.assert_allclose(mixture(grown, X, 4, chosen_only), wanted, rtol=1e-11, atol=1e-12)
    separate = bool((grown["down"][0] != grown["down"][1]).any())
    assert separate == (symmetry != "even")


def test_more_experts_continue_exactly():
    """Gradients are 1/m of the old ones, so that Adam's exact continuation holds."""
    small, big = draw(3), draw(6)
    plan = experts.more_experts(small, big)
    slope = lambda p, k: jax.grad(lambda q: jnp.sum(jnp.sin(mixture(q, X, k, True))))(p)
    grown = plan.grow(small, symmetry="even")
    old, new = slope(small, 2), slope(grown, 4)
    for name, leaf in plan.realise().items():
        (axis,) = [a for a in leaf.axes if a is not None]
        d = leaf.axes.index(axis)
        wanted = np.repeat(old[name], 2, axis=d) / 2
        np.testing.assert_allclose(new[name], wanted, rtol=1e-10, atol=1e-12)
        assert (axis.gradient * leaf.gradient == 0.5).all()
    with jax.numpy_dtype_promotion("standard"):  # optax.adam raises a float to its int count
        tx = optax.adam(0.01)
        exact = plan.exact(tx, symmetry="even")
        states = tx.init(small), exact.init(grown)
        for _ in range(3):
            updates, state = tx.update(slope(small, 2), states[0], small)
            more, other = exact.update(slope(grown, 4), states[1], grown)
            small, grown = optax.apply_updates(small, updates), optax.apply_updates(grown, more)
            states = state, other
    np.testing.assert_allclose(
        mixture(grown, X, 4, True), mixture(small, X, 2, True), rtol=1e-9, atol=1e-10
    )


def test_a_dense_layer_becomes_experts():
    rng = np.random.default_rng(2)
    dense = {
        "wi": jnp.asarray(rng.normal(size=(4, 5))),
        "b": jnp.asarray(rng.normal(size=5)),
        "down": jnp.asarray(rng.normal(size=(5, 3))),
    }
    grown = experts.from_dense(dense, draw(3), names={"up": "wi"})
    wanted = jax.nn.gelu(X @ dense["wi"] + dense["b"]) @ dense["down"]
    np.testing.assert_allclose(mixture(grown, X, 2, True), wanted, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(grown["router"], draw(3)["router"])
    # Gates that do not sum to 1 change the function: the condition is needed.
    assert np.abs(mixture(grown, X, 2, False) - wanted).max() > 0.01


def test_refusals():
    with pytest.raises(growth.GrowthError, match="3 → 7"):
        experts.more_experts(draw(3), draw(7))
    with pytest.raises(growth.GrowthError, match="from_dense"):
        experts.more_experts({"w": jnp.ones(2)}, {"v": jnp.ones(2)})
    with pytest.raises(growth.GrowthError, match="no place for wi"):
        experts.from_dense({"wi": jnp.ones((4, 5))}, draw(3))
    with pytest.raises(growth.GrowthError, match="nor a stack of it"):
        experts.from_dense({"up": jnp.ones((5, 4))}, draw(3))
    with pytest.raises(growth.GrowthError, match="no leaf nothing"):
        experts.from_dense({}, draw(3), names={"up": "nothing"})
