"""The grown model follows the small one exactly, whatever the rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.catalogue import (
    LR,
    OPTIMIZERS,
    copies,
    extra,
    grow_params,
    loss,
    mlp,
    mlp_growth,
    mlp_params,
)
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.exact import ExactState, exact
from trainkit.growth.opt_state.grow import grow_opt_state

MEASURED = ["sgd", "momentum", "adamw", "lion", "lamb", "adafactor", "muon"]
N = 4
EVEN = [0, 1, 2, 3, 0, 1, 2, 3]
UNEVEN = [0, 1, 2, 3, 3, 0, 3]  # 4 → 7: one, two or three copies of a unit


@pytest.fixture(autouse=True)
def _mode(x64):
    # Optax itself mixes dtypes in ways that the strict mode refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


def fast(params):
    return params.fast if isinstance(params, optax.LookaheadParams) else params


STRIDE = 5  # steps of one program, so that a run before growth and one after it share it


@functools.lru_cache(maxsize=4)
def stride(name, tx):
    def step(carry, t):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(fast(params), t)
        updates, state = tx.update(grads, state, params, **extra(name, fast(params), t))
        return (optax.apply_updates(params, updates), state), value

    return jax.jit(lambda carry, ts: jax.lax.scan(step, carry, ts))


def train(name, tx, params, state, steps, start=0):
    """What the run ends with, and the loss at every step."""
    carry, values = (params, state), []
    for ts in np.arange(start, start + steps, dtype=np.float64).reshape(-1, STRIDE):
        carry, some = stride(name, tx)(carry, ts)
        values.append(some)
    return *carry, np.concatenate(values)


def grown_run(name, growth, before, steps, seed=0):
    """Small for `before` steps, then both for `steps` more."""
    tx = OPTIMIZERS[name]()
    params = mlp_params(N, seed)
    params, state, _ = train(name, tx, params, tx.init(params), before)
    big = grow_params(params, growth)
    big_state = grow_opt_state(tx, state, growth, params, big)
    small = train(name, tx, params, state, steps, before)
    follow = exact(tx, growth, params)
    return small, train(name, follow, big, big_state, steps, before), (tx, big, big_state)


@pytest.mark.parametrize("split", [pytest.param("even", marks=pytest.mark.slow), "uneven"])
@pytest.mark.parametrize("name", MEASURED)
def test_forty_steps(name, split):
    growth = mlp_growth(EVEN if split == "even" else UNEVEN, split)
    small, big, plain = grown_run(name, growth, 5, 40)
    x = jnp.linspace(-1.0, 1.0, 30).reshape(10, 3)
    # Rounding of 40 float64 steps, measured at ≤ 2e-14; the bound is the one promised.
    assert np.abs(mlp(small[0], x) - mlp(big[0], x)).max() < 1e-10
    np.testing.assert_allclose(small[2], big[2], atol=1e-10, rtol=0)
    # Not vacuous: without the factors the two part. (Adafactor scales its updates by the size of
    # the parameters, so that for even copies it is exact by itself.)
    without = train(name, *plain, 40, 5)
    if (name, split) != ("adafactor", "even"):
        assert np.abs(small[2] - without[2]).max() > 1e-4


# MultiSteps accumulates in float32, and Adafactor keeps its momentum in it unless it is told
# otherwise ("adafactor_momentum"): what is stored at uneven shares rounds. Sophia draws a direction
# of the parameters' size.
LOOSE = {"multi_steps": 1e-6, "sophia": 1e-6, "adafactor_single": 1e-6}
# Lookahead trains two sets of parameters, and the state of Optax's monitor changes its structure at
# the first update, so neither runs in this loop.
ELSEWHERE = {"lookahead", "monitor"}


# Their slots scale otherwise than the table says, which only a run of the rule shows.
IN_PLACE = {"adamax", "lars", "adafactor_momentum"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_PLACE else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(set(OPTIMIZERS) - set(MEASURED) - ELSEWHERE)
    ],
)
def test_every_rule(name):
    small, big, _ = grown_run(name, mlp_growth(UNEVEN, "uneven"), 5, 5)
    np.testing.assert_allclose(small[2], big[2], rtol=0, atol=LOOSE.get(name, 1e-10))
    assert np.isfinite(small[2]).all()


def test_the_state_is_the_plain_one():
    tx, growth, params = optax.adamw(LR), mlp_growth(EVEN), mlp_params(N)
    follow, big = exact(tx, growth, params), grow_params(params, growth)
    _, after = follow.update(jax.tree.map(jnp.ones_like, big), tx.init(big), big)
    assert jax.tree.structure(after) == jax.tree.structure(tx.init(big))
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, after, tx.init(big))
    )


def test_known_factors():
    """SGD: lr·c/f. AdamW: lr·c with ε·f. Lion: lr·c. As the calculus has them."""
    growth, params = mlp_growth(EVEN), mlp_params(N)
    big = grow_params(params, growth)
    grads = jax.jit(jax.grad(loss))(big, 0.0)
    c, f = 1 / 2, 1 / 2  # mid/w: read by two, written by two
    g = grads["mid"]["w"]
    for tx, expected in [
        (optax.sgd(LR), -LR * c / f * g),
        (optax.adam(LR, eps=1e-3), -LR * c * g / (jnp.abs(g) + 1e-3 * f)),
        (optax.lion(LR, weight_decay=0.0), -LR * c * jnp.sign(g)),
        (optax.adagrad(LR, 0.0, eps=1e-3), -LR * c * g / jnp.sqrt(g**2 + 1e-3 * f**2)),
    ]:
        updates, _ = exact(tx, growth, params).update(grads, tx.init(big), big)
        np.testing.assert_allclose(updates["mid"]["w"], expected, rtol=1e-10)


def test_anneals_to_plain():
    tx, growth, params = optax.adam(LR), mlp_growth(EVEN), mlp_params(N)
    big = grow_params(params, growth)
    grads = jax.jit(jax.grad(loss))(big, 0.0)
    follow = exact(tx, growth, params, anneal=4)
    update = jax.jit(follow.update)
    one_exact, _ = exact(tx, growth, params).update(grads, tx.init(big), big)
    one_plain, _ = tx.update(grads, tx.init(big), big)
    for count, s in [(0, 0.0), (1, 0.25), (2, 0.5), (4, 1.0), (9, 1.0)]:
        state = ExactState(jnp.int32(count), tx.init(big))
        updates, after = update(grads, state, big)
        mixed = jax.tree.map(lambda a, b, s=s: (1 - s) * a + s * b, one_exact, one_plain)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, mixed)
        assert int(after.step) == count + 1
    # A plain state is step 0, and a schedule may say what it likes.
    _, after = follow.update(grads, tx.init(big), big)
    assert int(after.step) == 1
    held = exact(tx, growth, params, anneal=lambda count: 0.0 * count)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14),
        held.update(grads, held.init(big), big)[0],
        one_exact,
    )


def test_new_units_rest():
    """An axis that gains units which copy nothing: they do not move, the rest follows."""
    write = AxisMap(np.array([0, 1, 2, 3, -1]), np.ones(5), np.ones(5))
    read = AxisMap(np.array([0, 1, 2, 3, -1]), np.ones(5), np.ones(5))
    growth = MapData(
        {
            "in/b": LeafMap((write,)),
            "in/w": LeafMap((None, write)),
            "mid/w": LeafMap((read, None)),
        }
    )
    tx, params = optax.adamw(LR), mlp_params(N)
    big = grow_params(params, growth)
    small = train("adamw", tx, params, tx.init(params), 10)
    state = grow_opt_state(tx, tx.init(params), growth, params, big)
    grown = train("adamw", exact(tx, growth, params), big, state, 10)
    np.testing.assert_allclose(small[2], grown[2], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(grown[0]["in"]["w"][:, 4], 0)


def test_zero_sum_noise_does_not_matter():
    growth, params = mlp_growth(EVEN), mlp_params(N)
    tx, big = optax.adamw(LR), grow_params(params, growth)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=(N, 2)) / 5)
    big["out"]["w"] = big["out"]["w"] + jnp.concatenate([noise, -noise])
    small = train("adamw", tx, params, tx.init(params), 20)
    grown = train("adamw", exact(tx, growth, params), big, tx.init(big), 20)
    np.testing.assert_allclose(small[2], grown[2], rtol=0, atol=1e-12)


def test_shifted_norm_scale():
    """A leaf used as 1 + w whose scale changes: w′ = c(w + 1) − 1, also under weight decay."""
    growth = MapData({"w": LeafMap((None,), weight=0.5, gradient=2.0, shift=1.0)})
    value = lambda w, k: jnp.sum((k * (1 + w) - jnp.arange(3.0)) ** 2)
    tx, w = optax.adamw(LR, weight_decay=0.3), jnp.array([0.1, 0.2, 0.3])
    big, follow = {"w": 0.5 * (w + 1) - 1}, exact(tx, growth, {"w": w})
    small, state, big_state = {"w": w}, tx.init({"w": w}), tx.init(big)
    for _ in range(5):
        updates, state = tx.update(jax.grad(lambda p: value(p["w"], 1.0))(small), state, small)
        small = optax.apply_updates(small, updates)
        grads = jax.grad(lambda p: value(p["w"], 2.0))(big)
        updates, big_state = follow.update(grads, big_state, big)
        big = optax.apply_updates(big, updates)
    np.testing.assert_allclose(2 * (1 + big["w"]), 1 + small["w"], rtol=1e-13)


def test_refuses_what_a_state_cannot_give_back():
    params = {"w": jnp.ones((4, 4))}
    write, _ = copies(EVEN)
    growth = MapData({"w": LeafMap((None, write))})
    big = {"w": jnp.ones((4, 8))}
    wide = MapData({"w": LeafMap((write, write))})
    tx = optax.adafactor(LR, min_dim_size_to_factor=8)
    exact(tx, growth, params).update(big, tx.init(big), big)  # neither is factored
    big = {"w": jnp.ones((8, 8))}
    with pytest.raises(GrowthError, match="min_dim_size_to_factor"):
        exact(tx, wide, params).update(big, tx.init(big), big)
    with pytest.raises(ValueError, match="needs the parameters"):
        exact(tx, wide, params).update(big, tx.init(big))
