"""Key and value heads that grow without the queries; float64, everything random."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from trainkit import growth

X = np.random.default_rng(1).normal(size=(2, 4, 6))


def attention(p, x):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) + p["b" + name] for name in "qkv")
    b, t, h, e = q.shape
    q = q.reshape(b, t, k.shape[2], h // k.shape[2], e)
    weights = jax.nn.softmax(jnp.einsum("btgre,bsge->bgrts", q, k) / np.sqrt(e))
    return jnp.einsum("bgrts,bsge->btgre", weights, v).reshape(b, t, -1) @ p["o"]


def draw(groups):
    rng = np.random.default_rng(0)
    sizes = {
        "q": (6, 4, 3), "bq": (4, 3), "k": (6, groups, 3), "bk": (groups, 3),
        "v": (6, groups, 3), "bv": (groups, 3), "o": (12, 6),
    }  # fmt: skip
    return {name: jnp.asarray(rng.normal(size=size)) for name, size in sizes.items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("small", "big"), [(1, 2), (2, 4), (1, 4)])
def test_groups_part_exactly_and_their_gradients_sum_to_the_old(small, big):
    params = draw(small)
    plan = growth.Plan.of_groups(params, draw(big))
    grown = plan.grow(params, how="even")
    np.testing.assert_allclose(attention(grown, X), attention(params, X), rtol=1e-11, atol=1e-12)
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(attention(p, X))))
    old, new = slope(params), slope(grown)
    summed = new["k"].reshape(6, small, big // small, 3).sum(2)
    np.testing.assert_allclose(summed, old["k"], rtol=1e-9, atol=1e-11)
    # The copies serve different queries: no factor gives their gradients, and the map says so.
    growths = plan.realise(how="even").leaves
    assert not growths["k"].exact_gradient
    assert growths["q"].exact_gradient
    assert growth.Plan.from_json(plan.to_json()) == plan


@pytest.mark.usefixtures("x64")
def test_a_state_takes_more_groups_by_itself():
    """Told by the outputs; not where query heads read other key heads."""
    tx, params = optax.adam(1e-2), draw(2)
    state = trainkit.TrainState.create(params, tx)
    grown = growth.grow(state, attention, attention, X, tx=tx, big_params=draw(4))
    np.testing.assert_allclose(
        attention(grown.params, X), attention(params, X), rtol=1e-11, atol=1e-12
    )
    assert grown.opt_state[0].mu["k"].shape == (6, 4, 3)

    def tiled(p, x):  # query head i reads key head i mod G: copies side by side are wrong
        q, k = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "qk")
        k = jnp.tile(k, (1, 1, q.shape[2] // k.shape[2], 1))
        return jnp.einsum("bthe,bshe->bhts", q, k)

    parts = lambda p: {name: p[name] for name in "qk"}
    state = trainkit.TrainState.create(parts(params), tx)
    with pytest.raises(growth.GrowthError, match="groups"):
        growth.grow(state, tiled, tiled, X, tx=tx, big_params=parts(draw(4)))


def test_two_ratios_are_refused():
    small, big = ({"a": jnp.ones(a), "b": jnp.ones(b)} for a, b in ((2, 2), (4, 3)))
    with pytest.raises(growth.GrowthError, match="2 → 3, 2 → 4"):
        growth.Plan.of_groups(small, big)
