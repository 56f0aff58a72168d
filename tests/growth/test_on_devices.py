"""Optimizer and training states grow where they live: sharded, without communication, donated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.growth import zoo
from tests.growth.zoo.building import randomised
from tests.growth.zoo.shared import SPECS
from trainkit import TrainState, growth
from trainkit._core.paths import path_name
from trainkit.growth.models import functions
from trainkit.growth.operators import operator
from trainkit.growth.opt_state.grow import grow_opt_state
from trainkit.growth.train_state import find_map, state_grower

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
KEY = jax.random.key(0)
MODEL = zoo.REGISTRY["sharded block"]
(X,) = MODEL.inputs
(small_model, SMALL), (big_model, BIG) = MODEL.at(), MODEL.big("wider")
EXAMPLE = jax.ShapeDtypeStruct(X.shape, X.dtype)


def shardings_of(tree):
    """Slots lie like their parameters; counts, steps and keys on every device."""
    mesh = Mesh(np.array(jax.devices()), ("x",))

    def one(path, leaf):
        spec = SPECS.get(path_name(path).rpartition("/")[2], P())
        return NamedSharding(mesh, spec if leaf.ndim else P())

    return jax.tree_util.tree_map_with_path(one, tree)


def placed(tree):
    found = shardings_of(tree)
    spec = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(spec, tree, found)


def equal(a, b):
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    same = lambda x, y: np.testing.assert_array_equal(np.asarray(data(x)), np.asarray(data(y)))
    jax.tree.map(same, a, b)


def trained(tx):
    params = randomised(SMALL)
    _, opt_state = tx.update(jax.tree.map(jnp.cos, params), tx.init(params), params)
    return TrainState.create(params, tx, rng=3).replace(opt_state=opt_state)


@pytest.fixture(scope="module")
def plan():
    return growth.plan(small_model, big_model, SMALL, BIG, EXAMPLE)


@pytest.mark.parametrize(
    "rule", ["adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in ("momentum", "average"))]
)
def test_optimizer_states(rule, plan):
    tx = {
        "adamw": lambda: optax.adamw(1e-3),
        "momentum": lambda: optax.sgd(0.1, 0.9),
        "average": lambda: optax.contrib.schedule_free_adamw(1e-3, b1=0.9),
    }[rule]()
    with jax.numpy_dtype_promotion("standard"):
        state = trained(tx)
        maps = plan.realise(KEY, "uneven")
        big = maps.params(state.params)
        template = jax.eval_shape(tx.init, BIG)
        run = lambda s, p, q: grow_opt_state(tx, s, maps, p, q)
        compiled = (
            jax.jit(run, out_shardings=shardings_of(template))
            .lower(placed(jax.eval_shape(tx.init, SMALL)), placed(SMALL), placed(BIG))
            .compile()
        )
        assert not [name for name in COLLECTIVES if name in compiled.as_text()]
        alone = maps.opt_state(tx, state.opt_state, state.params, big)
        given = jax.device_put(state.opt_state, shardings_of(state.opt_state))
        asked = shardings_of(template)
        options = {"out_shardings": asked, "donate": True}
        where = [jax.device_put(t, shardings_of(t)) for t in (state.params, big)]
        grown = maps.opt_state(tx, given, *where, **options)
    assert jax.tree.map(lambda x: x.sharding, grown) == asked
    equal(grown, alone)
    assert all(x.is_deleted() for x in jax.tree.leaves(given))
    assert not any(x.is_deleted() for x in jax.tree.leaves(where))


def test_training_states():
    tx = optax.adamw(1e-3)
    with jax.numpy_dtype_promotion("standard"):
        state = trained(tx)
        options = {"tx": tx, "big_params": BIG, "how": "uneven", "key": KEY}
        alone = growth.grow(state, small_model, big_model, EXAMPLE, **options)
        sides = [
            functions(fn, (EXAMPLE,), params, {})
            for fn, params in ((small_model, SMALL), (big_model, BIG))
        ]
        way = find_map(*sides, (EXAMPLE,), how=operator("uneven"), key=KEY)
        apply = state_grower(way, *sides, (EXAMPLE,), tx=tx)
        asked = shardings_of(jax.eval_shape(apply, state))
        compiled = jax.jit(apply, out_shardings=asked).lower(placed(state)).compile()
        assert not [name for name in COLLECTIVES if name in compiled.as_text()]
        given = jax.device_put(state, shardings_of(state))
        grown = growth.grow(
            given, small_model, big_model, EXAMPLE, donate=True, out_shardings=asked, **options
        )
    assert jax.tree.map(lambda x: x.sharding, grown) == asked
    assert grown.params["q"].shape[0] == 32
    equal(grown, alone)
    big_enough = [*jax.tree.leaves(given.params), *jax.tree.leaves(given.opt_state)]
    assert all(x.is_deleted() for x in big_enough)
