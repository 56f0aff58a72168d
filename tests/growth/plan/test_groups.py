"""Key and value heads that grow without the queries; float64, everything random."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from tests.growth import zoo
from trainkit import growth

MODEL = zoo.REGISTRY["queries of one group"]
queries, (X,) = MODEL.at()[0], MODEL.inputs


def draw(groups):
    return MODEL.params(groups=groups)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("small", "big"), [(1, 2), (2, 4), (1, 4)])
def test_groups_part_exactly_and_their_gradients_sum_to_the_old(small, big):
    params = draw(small)
    plan = growth.Plan.of_groups(params, draw(big))
    grown = plan.grow(params, how="even")
    np.testing.assert_allclose(queries(grown, X), queries(params, X), rtol=1e-11, atol=1e-12)
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(queries(p, X))))
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
    grown = growth.grow(state, queries, queries, X, tx=tx, big_params=draw(4))
    np.testing.assert_allclose(queries(grown.params, X), queries(params, X), rtol=1e-11, atol=1e-12)
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
