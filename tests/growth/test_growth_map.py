"""One object carries a growth: what it says of itself, and that all goes by the same draw."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth import zoo
from trainkit import TrainState, growth
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.maps.realise import rate
from trainkit.growth.plan.data import Origin

KEY = jax.random.key(0)
MODEL = zoo.REGISTRY["residual layers"]
net, (X,) = MODEL.at()[0], MODEL.inputs


def draw(width, depth=1):
    return MODEL.params(dtype=jnp.float32, width=width, depth=depth)


def planned(hidden=8, layers=1, **options):
    return growth.plan(net, net, draw(4), draw(hidden, layers), X, **options)


@pytest.mark.parametrize(
    ("plan", "how", "proof"),
    [
        (planned, "uneven", "proved"),
        (planned, "rms", "assumed"),
        (lambda: planned(4, 3), "even", "reduced"),
        (lambda: planned(8, 3), "zero_out", "reduced"),
        (lambda: planned(4, 2, how="stack"), "even", "assumed"),
        (lambda: growth.Plan.of_groups({"k": jnp.ones(2)}, {"k": jnp.ones(4)}), "even", "assumed"),
    ],
)
def test_it_says_what_is_known_of_the_function(plan, how, proof):
    assert plan().realise(KEY, how).proof == proof


def test_new_layers_their_zeros_and_rates_are_named():
    way = planned(8, 2).realise(how="even")
    (new,) = {name.rpartition("/")[0] for name in way.new}
    assert way.zeroed == (f"{new}/down",)
    assert way.origin_of("out").leaf == "out"
    # What reads a doubled axis is halved, and so is its rate under a sign-like rule.
    old = next(f"layers/{i}" for i in range(2) if f"layers/{i}" != new)
    assert way.rates[f"{old}/down"] == 0.5
    assert way.rates.get(f"{old}/up", 1.0) == 1.0


def test_parameters_and_their_averages_get_the_same_noise():
    params, tx = draw(4), optax.contrib.schedule_free_sgd(0.1)
    way = planned().realise(KEY, "noise")
    big = way.params(params)
    assert not np.allclose(big["layers"][0]["down"][0], big["layers"][0]["down"][1])
    state = way.opt_state(tx, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, state.z, big)


def test_a_state_grows_by_its_map_as_it_does_by_grow():
    tx = optax.adam(1e-2)
    state = TrainState.create(draw(4), tx)
    models = {"big_params": draw(8, 2), "how": "zero_out+identity", "key": KEY}
    grown, way = growth.grow(state, net, net, X, tx=tx, with_map=True, **models)
    again, inside = way.state(tx, state), way.under("params").params(state.params)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # one draw, three programs
    jax.tree.map(same, (again.params, again.opt_state), (grown.params, grown.opt_state))
    jax.tree.map(same, inside, grown.params)
    with pytest.raises(KeyError, match="below 'weights'"):
        way.under("weights")


def test_a_map_without_a_plan_says_that_it_grows_no_parameters():
    with pytest.raises(growth.GrowthError, match="not made from a plan"):
        growth.GrowthMap().params(draw(4))


def test_it_shows_its_maps_and_not_what_they_were_drawn_from():
    way = planned(8, 2).realise(KEY, "noise")
    assert way.draws
    shown = repr(way)
    assert "LeafMap(" in shown
    for hidden in ("draws=", "plan=", "key="):
        assert hidden not in shown


def test_a_subtree_says_of_its_leaves_what_the_whole_says():
    way = planned(8, 2).realise(KEY, "noise")
    assert way.zeroed
    assert way.rates
    assert way.draws
    inside = way.under("layers")
    of = lambda found: {k.removeprefix("layers/"): v for k, v in found.items() if "layers/" in k}
    assert inside.zeroed == tuple(name.removeprefix("layers/") for name in way.zeroed)
    for field in ("leaves", "rates", "draws"):
        assert getattr(inside, field).keys() == of(getattr(way, field)).keys()
        for name, value in getattr(inside, field).items():
            assert value is of(getattr(way, field))[name]
    origin = {k: (o.leaf and o.leaf.removeprefix("layers/"), o.new) for k, o in way.origin.items()}
    assert {k: (o.leaf, o.new) for k, o in inside.origin.items()} == of(origin)
    assert set(inside.plan.origin) == set(inside.origin)
    same = ("proof", "key", "how")
    assert [getattr(inside, field) for field in same] == [getattr(way, field) for field in same]


def test_a_subtree_with_leaves_that_no_old_one_is_like():
    leaves = {"params/w": LeafMap((None,))}
    origin = {"params/w": Origin("params/v"), "params/new": Origin(None, True)}
    inside = MapData(leaves, origin).under("params")
    assert inside.origin == {"w": Origin("v"), "new": Origin(None, True)}
    assert inside.new == ("new",)


def test_rates_are_the_mean_factors_of_all_axes():
    """Steps of one size move a sum by the sum of what reads them."""
    axis = lambda *c: AxisMap(np.zeros(len(c), int), np.array(c), np.ones(len(c)))
    assert rate(LeafMap((axis(0.5, 0.5), None, axis(2.0, -4.0)), weight=-3.0)) == 0.5 * 3 * 3
    assert rate(LeafMap((None,))) == 1.0
