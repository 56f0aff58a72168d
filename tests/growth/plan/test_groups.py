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


def fused(params):
    """Heads and their size as one axis, as a dense layer of most language models has them."""
    return {name: w.reshape(w.shape[0], -1) for name, w in params.items()}


def reads_fused(params, x):
    """A head has 3 entries; key heads are repeated for their queries."""
    q, k = (jnp.dot(x, params[name]).reshape(*x.shape[:2], -1, 3) for name in "qk")
    k = jnp.repeat(k, q.shape[2] // k.shape[2], 2)
    return jnp.tanh(jnp.einsum("bthe,bshe->bhts", q, k))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", ["identity", "groups"])
def test_whole_heads_are_copied_where_an_axis_holds_heads_and_their_size(how):
    """Key heads of a fused axis, with and without being asked for."""
    tx = optax.adam(1e-2)
    small, big = (fused({name: draw(n)[name] for name in "qk"}) for n in (2, 4))
    state = trainkit.TrainState.create(small, tx)
    grown, grown_by = growth.grow(
        state, reads_fused, reads_fused, X, tx=tx, big_params=big, how=how, with_map=True
    )
    assert grown.params["k"].shape == big["k"].shape != small["k"].shape
    wanted = reads_fused(small, X)
    np.testing.assert_allclose(reads_fused(grown.params, X), wanted, rtol=1e-11, atol=1e-12)
    assert grown_by.proof == "measured"
    plan = growth.plan(reads_fused, reads_fused, small, big, X, how="groups")
    assert growth.Plan.from_json(plan.to_json()) == plan
    np.testing.assert_array_equal(plan.grow(small, how="even")["k"], grown.params["k"])


@pytest.mark.usefixtures("x64")
def test_key_heads_that_are_read_in_another_order_are_refused_when_asked_for():
    def tiled(p, x):
        q, k = (jnp.dot(x, p[name]).reshape(*x.shape[:2], -1, 3) for name in "qk")
        k = jnp.tile(k, (1, 1, q.shape[2] // k.shape[2], 1))
        return jnp.einsum("bthe,bshe->bhts", q, k)

    tx = optax.sgd(0.1)
    small, big = (fused({name: draw(n)[name] for name in "qk"}) for n in (2, 4))
    state = trainkit.TrainState.create(small, tx)
    with pytest.raises(growth.GrowthError, match="query head i does not read key head i //"):
        growth.grow(state, tiled, tiled, X, tx=tx, big_params=big, how="groups")


@pytest.mark.parametrize(
    ("big", "why"),
    [({"w": (3, 4)}, "have different parameters"), ({"q": (3, 2, 2)}, "has shape"),
     ({"q": (3, 2)}, "exactly one axis may grow")],
)  # fmt: skip
def test_other_parameters_are_named(big, why):
    shapes = lambda sizes: {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in sizes.items()}
    fn = lambda p, x: jnp.sum(x @ next(iter(p.values())).reshape(3, -1))
    small, big, x = shapes({"q": (3, 2)}), shapes(big), jax.ShapeDtypeStruct((5, 3), jnp.float32)
    with pytest.raises(growth.GrowthError, match=why):
        growth.plan(fn, fn, small, big, x, how="groups")


def test_two_ratios_are_refused():
    small, big = ({"a": jnp.ones(a), "b": jnp.ones(b)} for a, b in ((2, 2), (4, 3)))
    with pytest.raises(growth.GrowthError, match="2 → 3, 2 → 4"):
        growth.Plan.of_groups(small, big)
