"""Adam's second moment in a dtype of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt

RULES = {"adam": tt.adam, "adamw": tt.adamw}


def run(tx, params, gradients):
    update, state, out = jax.jit(tx.update), tx.init(params), []
    for g in gradients:
        u, state = update(g, state, params)
        out.append(u)
    assert update._cache_size() == 1
    return out, state


def draw(dtype, steps=20, n=512):
    rng = np.random.default_rng(0)
    return [{"w": jnp.asarray(rng.normal(size=n), dtype)} for _ in range(steps)]


@pytest.mark.parametrize("name", RULES)
def test_in_float32_it_is_the_rule_with_float32_moments(name):
    """Parameters and gradients in bfloat16: only the updates are rounded, and μ is as it was."""
    gradients, params = draw(jnp.bfloat16), {"w": jnp.ones(512, jnp.bfloat16)}
    make = lambda **d: RULES[name](0.1, b1=0.0, **d)  # μ is g: what is kept of it does not count
    found, state = run(make(nu_dtype=jnp.float32), params, gradients)
    assert tt.get(state, "nu")["w"].dtype == jnp.float32
    assert tt.get(state, "mu")["w"].dtype == found[0]["w"].dtype == jnp.bfloat16
    single = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    wanted, alike = run(make(), single(params), [single(g) for g in gradients])
    assert jnp.array_equal(tt.get(state, "nu")["w"], tt.get(alike, "nu")["w"])
    for f, w in zip(found, wanted, strict=True):
        assert jnp.array_equal(f["w"], w["w"].astype(jnp.bfloat16))


@pytest.mark.parametrize("name", RULES)
def test_in_bfloat16_it_is_right_in_the_mean(name):
    """200 zero gradients after one: ν decays by .999²⁰⁰ = .82; rounded to nearest it would stay."""
    n = 4096
    ones, zeros = {"w": jnp.ones(n)}, {"w": jnp.zeros(n)}
    _, state = run(RULES[name](0.1, nu_dtype="bfloat16"), ones, [ones] + [zeros] * 200)
    nu = tt.get(state, "nu")["w"]
    assert nu.dtype == jnp.bfloat16
    mean, true = float(nu.astype(jnp.float32).mean()), 1e-3 * 0.999**200
    # A rounding's deviation is at most half of 2⁻⁷, 200 of them make .06; over √4096, five times.
    assert abs(mean / true - 1) < 5 * 0.06 / 64
    stuck = jnp.bfloat16(1e-3)
    assert (stuck.astype(jnp.float32) * 0.999).astype(jnp.bfloat16) == stuck


def test_a_run_can_be_repeated_and_leaves_may_exchange_their_places():
    gradients = [{"a": g["w"], "b": g["w"][::-1]} for g in draw(jnp.float32)]
    tx, params = tt.adamw(0.1, nu_dtype="bfloat16"), {"a": jnp.ones(512), "b": jnp.ones(512)}
    first, again = run(tx, params, gradients), run(tx, params, gradients)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, again))
    exchanged = run(tx, params, [{"a": g["b"], "b": g["a"]} for g in gradients])
    assert jnp.array_equal(tt.get(first[1], "nu")["a"], tt.get(exchanged[1], "nu")["b"])


def test_it_goes_with_what_stands_around_rules():
    params, gradients = {"w": jnp.ones((8, 64))}, [{"w": jnp.ones((8, 64))}] * 3
    make = lambda: tt.adamw(0.1, nu_dtype="bfloat16")
    plain = run(make(), params, gradients)[0]
    for tx in (
        tt.inject(make()),
        tt.groups([("w", make())]),
        tt.accumulate(make(), 1),
        tt.named(a=make()),
    ):
        found, state = run(tx, params, gradients)
        dtypes = [x.dtype for x in jax.tree.leaves(state)]
        assert dtypes.count(jnp.bfloat16) == 1
        for f, p in zip(found, plain, strict=True):
            # What is injected is a float32, and 1 − .999 then has four digits: a rounding may fall
            # on the other neighbour, which is .8 % of ν away and .4 % of a step.
            assert jnp.allclose(f["w"], p["w"], rtol=5e-3)
    run(tt.quantise_moments(make(), min_size=1), params, gradients)


def test_the_default_is_optaxs_rule():
    params, gradients = {"w": jnp.ones(512)}, draw(jnp.float32)
    found = run(tt.adam(0.1), params, gradients)[0]
    with jax.numpy_dtype_promotion("standard"):
        wanted = run(optax.adam(0.1), params, gradients)[0]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found, wanted))


@pytest.mark.parametrize("dtype", ["float16", "int32", jnp.float8_e5m2])
def test_a_dtype_without_float32s_range_is_refused(dtype):
    for name, make in RULES.items():
        with pytest.raises(ValueError, match=f"^{name}: nu_dtype must be a dtype with float32's"):
            make(0.1, nu_dtype=dtype)
