"""Growing arrays: on device, sharded, donated, in narrow dtypes; and what each operator does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from tests.growth import zoo
from tests.growth.checking import names
from tests.growth.memory import peak, size
from tests.growth.zoo.building import as_dtype, randomised
from tests.growth.zoo.shared import SPECS
from trainkit import growth
from trainkit.growth.maps.params import grower

MODEL = zoo.REGISTRY["sharded block"]
(X,) = MODEL.inputs


def shapes(k, dtype=jnp.float32):
    """Of the small model, or of one twice as wide."""
    return as_dtype((MODEL.at() if k == 1 else MODEL.big("wider"))[1], dtype)


def plan_for(dtype=jnp.float32):
    x = jax.ShapeDtypeStruct(X.shape, dtype)
    return MODEL.plan(
        "wider", MODEL.at()[0], MODEL.big("wider")[0], shapes(1, dtype), shapes(2, dtype), x
    )


@pytest.fixture(scope="module")
def plan():
    return plan_for()


@pytest.mark.parametrize("how", ["even", "uneven"])
def test_sharded_growth_needs_no_communication(plan, how):
    mesh = Mesh(np.array(jax.devices()), ("x",))
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    key = jax.random.key(0)
    given = {
        name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=shardings[name])
        for name, s in shapes(1).items()
    }
    run = jax.jit(grower(plan.realise(key, how)), out_shardings=shardings)
    compiled = run.lower(given, key).compile()
    text = compiled.as_text()
    shares = [sum(size(shapes(k))) // len(jax.devices()) for k in (1, 2)]
    assert peak(compiled) <= sum(shares) + max(size(shapes(2))) // len(jax.devices()) + 1024
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
    params = jax.device_put(randomised(shapes(1)), shardings)
    grown = plan.grow(params, key=key, how=how, out_shardings=shardings)
    assert {name: x.sharding for name, x in grown.items()} == shardings
    alone = plan.grow(randomised(shapes(1)), key=key, how=how)
    for name, x in grown.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(alone[name]))


def test_donated_parameters_are_given_up(plan):
    params = randomised(shapes(1))
    kept = plan.grow(randomised(shapes(1)), how="even")
    grown = plan.grow(params, how="even", donate=True)
    assert all(x.is_deleted() for x in jax.tree.leaves(params))
    for name, x in grown.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(kept[name]))


def test_narrow_storage_is_computed_in_float32(plan):
    narrow = plan_for(jnp.bfloat16)
    params = randomised(shapes(1, jnp.bfloat16))
    key = jax.random.key(1)
    got = narrow.grow(params, key=key)
    wide = plan.grow(jax.tree.map(lambda x: x.astype(jnp.float32), params), key=key)
    for name, x in got.items():
        assert x.dtype == jnp.bfloat16
        np.testing.assert_array_equal(
            np.asarray(x, np.float32), np.asarray(wide[name].astype(jnp.bfloat16), np.float32)
        )


@pytest.mark.parametrize("how", ["uneven", "noise", "zero_out"])
def test_deterministic_given_the_key(plan, how):
    params = randomised(shapes(1))
    one, same, other = (
        names(plan.grow(params, key=jax.random.key(seed), how=how)) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_each_symmetry_tells_copies_apart(plan):
    params = randomised(shapes(1))
    key = jax.random.key(2)
    down = names(params)["down"]

    def grown(how):
        return names(plan.grow(params, key=key, how=how))

    even = grown("even")["down"]
    np.testing.assert_array_equal(even[0::2], even[1::2])
    for how in ("uneven", "noise"):
        new = grown(how)["down"]
        assert not np.allclose(new[0::2], new[1::2], rtol=1e-3)
        # Together the two copies of a unit are read as the one was.
        np.testing.assert_allclose((new[0::2] + new[1::2])[:, ::2], down, rtol=1e-4, atol=1e-5)
    fresh = grown("zero_out")
    assert not fresh["down"][1::2].any()
    np.testing.assert_array_equal(fresh["down"][0::2, ::2], down)
    assert not np.allclose(fresh["up"][:, 1::2], fresh["up"][:, 0::2], rtol=1e-3)


def test_a_symmetry_needs_a_key_and_a_known_name(plan):
    with pytest.raises(ValueError, match=r"key=jax\.random\.key"):
        plan.grow(randomised(shapes(1)))
    with pytest.raises(ValueError, match="uneven, noise, zero_out, even"):
        plan.grow(randomised(shapes(1)), key=jax.random.key(0), how="odd")


def test_parameters_of_another_model_are_refused(plan):
    params = randomised(shapes(1))
    with pytest.raises(growth.GrowthError, match=r"down has shape \(48, 32\)"):
        plan.grow({**params, "down": jnp.zeros((48, 32))}, how="even")
    del params["down"]
    with pytest.raises(growth.GrowthError, match=r"missing.*down"):
        plan.grow(params, how="even")
