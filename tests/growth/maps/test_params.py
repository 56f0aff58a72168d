"""Growing arrays: on device, sharded, donated, in narrow dtypes; and what each operator does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.growth.checking import names
from tests.growth.test_memory import peak, size
from trainkit import growth
from trainkit.growth.maps.params import grower

HEADS, SIZE, WIDTH, HIDDEN = 8, 2, 16, 24
X = jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)


def model(params, x, heads):
    """One block of attention and a gated feed-forward, with norms."""

    def rms(y, gain):
        return y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * gain

    x = x @ params["in"]
    y = rms(x, params["g1"])
    q, k, v = ((y @ params[n]).reshape(*y.shape[:2], heads, -1) for n in ("q", "k", "v"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(jnp.asarray(q.shape[-1], x.dtype))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    x = x + mixed.reshape(*y.shape[:2], -1) @ params["o"]
    y = rms(x, params["g2"])
    x = x + (jax.nn.silu(y @ params["gate"]) * (y @ params["up"])) @ params["down"]
    return rms(x, params["g3"]) @ params["out"]


def shapes(k, dtype=jnp.float32, factor_size=None):
    d, n, f = k * WIDTH, k * HEADS * SIZE * (factor_size or k), k * HIDDEN
    sizes = {
        "in": (3, d), "g1": (d,), "g2": (d,), "g3": (d,), "q": (d, n), "k": (d, n), "v": (d, n),
        "o": (n, d), "gate": (d, f), "up": (d, f), "down": (f, d), "out": (d, 4),
    }  # fmt: skip
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in sizes.items()}


def draw(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) / 4, s.dtype), tree)


def small_model(params, x):
    return model(params, x, HEADS)


def big_model(params, x):
    return model(params, x, 2 * HEADS)


def plan_for(dtype=jnp.float32):
    x = jax.ShapeDtypeStruct(X.shape, dtype)
    return growth.plan(small_model, big_model, shapes(1, dtype), shapes(2, dtype), x)


@pytest.fixture(scope="module")
def plan():
    return plan_for()


SPECS = {
    "in": P(None, "x"), "g1": P("x"), "g2": P("x"), "g3": P("x"), "q": P(None, "x"),
    "k": P(None, "x"), "v": P("x", None), "o": P("x", None), "gate": P(None, "x"),
    "up": P("x", None), "down": P("x", None), "out": P("x", None),
}  # fmt: skip


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
    params = jax.device_put(draw(shapes(1)), shardings)
    grown = plan.grow(params, key=key, how=how, out_shardings=shardings)
    assert {name: x.sharding for name, x in grown.items()} == shardings
    alone = plan.grow(draw(shapes(1)), key=key, how=how)
    for name, x in grown.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(alone[name]))


def test_donated_parameters_are_given_up(plan):
    params = draw(shapes(1))
    kept = plan.grow(draw(shapes(1)), how="even")
    grown = plan.grow(params, how="even", donate=True)
    assert all(x.is_deleted() for x in jax.tree.leaves(params))
    for name, x in grown.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(kept[name]))


def test_narrow_storage_is_computed_in_float32(plan):
    narrow = plan_for(jnp.bfloat16)
    params = draw(shapes(1, jnp.bfloat16))
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
    params = draw(shapes(1))
    one, same, other = (
        names(plan.grow(params, key=jax.random.key(seed), how=how)) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_each_symmetry_tells_copies_apart(plan):
    params = draw(shapes(1))
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
        plan.grow(draw(shapes(1)))
    with pytest.raises(ValueError, match="uneven, noise, zero_out, even"):
        plan.grow(draw(shapes(1)), key=jax.random.key(0), how="odd")


def test_parameters_of_another_model_are_refused(plan):
    params = draw(shapes(1))
    with pytest.raises(growth.GrowthError, match=r"down has shape \(48, 32\)"):
        plan.grow({**params, "down": jnp.zeros((48, 32))}, how="even")
    del params["down"]
    with pytest.raises(growth.GrowthError, match=r"missing.*down"):
        plan.grow(params, how="even")
