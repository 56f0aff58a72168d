"""The random key of a growth: seeds, raw keys, and keys inside `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from trainkit import TrainState, growth

X, TX = jnp.ones((5, 3)), optax.adam(1e-3)


def gelu_layers(p, x):
    return jax.nn.gelu(x @ p["in"]) @ p["out"]


def draw(n):
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in (("in", (3, n)), ("out", (n, 2)))
    }


SMALL, PLAN = draw(4), growth.plan(gelu_layers, gelu_layers, draw(4), draw(8), X)
SEEDS = (7, np.uint8(7), np.asarray(7), np.int64(7), jax.random.key(7), jax.random.PRNGKey(7),
         np.asarray(jax.random.PRNGKey(7)))  # fmt: skip


@pytest.mark.parametrize("how", ["uneven", "noise", "zero_out", "even"])
@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_every_form_of_one_seed_gives_one_growth(how, seed):
    wanted = PLAN.grow(SMALL, key=jax.random.key(7), how=how)
    inside = jax.jit(lambda p: PLAN.grow(p, key=SEEDS[seed], how=how))
    for found in (PLAN.grow(SMALL, key=SEEDS[seed], how=how), inside(SMALL)):
        # `jit` may fuse the few products of a growth: one rounding of float32.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7), found, wanted)


def test_a_seed_inside_jit_for_every_use_of_a_map():
    def run(params, state):
        way = PLAN.realise(1)
        return way.params(params), way.opt_state(TX, state, params)

    big, moments = jax.jit(run)(SMALL, TX.init(SMALL))
    assert big["in"].shape == moments[0].mu["in"].shape == (3, 8)
    state = TrainState.create(SMALL, TX)
    whole = lambda s: growth.grow(s, gelu_layers, gelu_layers, X, tx=TX, big_params=draw(8), key=1)
    np.testing.assert_allclose(jax.jit(whole)(state).params["in"], big["in"], rtol=2e-7)
    assert jax.eval_shape(lambda p: PLAN.grow(p, key=1), SMALL)["in"].shape == (3, 8)
    assert PLAN.mup().init(SMALL, 1)["in"].shape == (3, 8)


def test_traced_keys():
    """Only uneven shares are drawn on the host."""
    grown = jax.jit(lambda p, key: PLAN.grow(p, key=key, how="noise"))(SMALL, jax.random.key(3))
    wanted = PLAN.grow(SMALL, key=jax.random.key(3), how="noise")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), grown, wanted)
    for key in (jax.random.key(3), 3):
        with pytest.raises(ValueError, match=r"give a seed \(key=0\), or a key that is made out"):
            jax.jit(lambda p, key: PLAN.grow(p, key=key))(SMALL, key)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (1.5, "a random key or a seed, not 1.5; give jax.random.key"),
        (True, "a random key or a seed, not True"),
        (-1, "at least 0, not -1"),
        (np.array(-1), "at least 0, not -1"),
        (jax.random.split(jax.random.key(0)), "an array of 2 keys, give one of them"),
        (np.zeros(4, np.uint32), r"give jax.random.wrap_key_data\(key, impl='rbg'\)"),
        (np.zeros(2, np.int32), "a random key or a seed"),
        (nnx.Rngs(0), "a random key or a seed"),
    ],
)
def test_other_keys_are_refused_in_words(key, words):
    with pytest.raises((TypeError, ValueError), match=words):
        PLAN.grow(SMALL, key=key)
    with pytest.raises((TypeError, ValueError), match=words):
        jax.jit(lambda p: PLAN.grow(p, key=key))(SMALL)


def test_models_that_draw_in_a_loop():
    """Keys are constants of the loop, and their dtype is none of NumPy's."""

    def noisy(p, x, key):
        def step(h, k):
            return jnp.tanh(h @ p["in"]) @ p["back"] + jax.random.normal(k, x.shape), None

        fixed, _ = jax.lax.scan(step, x, jax.random.split(jax.random.key(1), 3))
        return jax.lax.scan(step, fixed, jax.random.split(key, 3))[0] @ p["out"]

    sizes = lambda n: {"in": (3, n), "back": (n, 3), "out": (3, 2)}
    rng = np.random.default_rng(0)
    small = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in sizes(4).items()}
    big = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in sizes(8).items()}
    plan, key = growth.plan(noisy, noisy, small, big, X, jax.random.key(2)), jax.random.key(2)
    grown = plan.grow(small, key=0)
    np.testing.assert_allclose(noisy(grown, X, key), noisy(small, X, key), atol=1e-5)


def test_no_key():
    with pytest.raises(ValueError, match=r"pass key=jax.random.key\(0\), or use how=.even"):
        jax.jit(lambda p: PLAN.grow(p))(SMALL)
    assert PLAN.grow(SMALL, how="even")["in"].shape == (3, 8)
