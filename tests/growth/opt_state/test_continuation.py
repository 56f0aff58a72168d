"""A plan carries a run on: the methods of `Plan` that know optimizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import growth
from trainkit.growth.errors import GrowthError


@pytest.fixture(autouse=True)
def _mode(x64):
    # Optax itself mixes dtypes in ways that the strict mode refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


def rms(x, scale):
    return scale * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def rotate(x):
    t, d = x.shape[1], x.shape[-1] // 2
    angle = jnp.arange(t)[:, None] / 100.0 ** (jnp.arange(d) / d)
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = x[..., :d], x[..., d:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def transformer(params, tokens):
    """Pre-norm, RMSNorm, RoPE, grouped queries, SwiGLU, tied embeddings."""
    x = params["embed"][tokens]
    t = tokens.shape[1]
    mask = jnp.tril(jnp.ones((t, t), bool))
    for p in params["layers"]:
        h = rms(x, p["norm1"])
        q, k = (rotate(jnp.einsum("btd,dhk->bthk", h, p[n])) for n in ("q", "k"))
        v = jnp.einsum("btd,dhk->bthk", h, p["v"])
        group = q.shape[2] // k.shape[2]
        q = q.reshape(*q.shape[:2], k.shape[2], group, q.shape[3])
        scores = jnp.einsum("bqhgk,bshk->bhgqs", q, k) / np.sqrt(q.shape[-1])
        scores = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1)
        mixed = jnp.einsum("bhgqs,bshk->bqhgk", scores, v)
        mixed = mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])
        x = x + jnp.einsum("bthk,hkd->btd", mixed, p["o"])
        h = rms(x, p["norm2"])
        x = x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return rms(x, params["norm"]) @ params["embed"].T


def weights(width, heads, mlp, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(rng.normal(size=s) * 0.4)
    near_one = lambda *s: jnp.asarray(1 + 0.2 * rng.normal(size=s))
    layer = lambda: {
        "norm1": near_one(width),
        "q": draw(width, heads, 4),
        "k": draw(width, heads // 2, 4),
        "v": draw(width, heads // 2, 4),
        "o": draw(heads, 4, width),
        "norm2": near_one(width),
        "gate": draw(width, mlp),
        "up": draw(width, mlp),
        "down": draw(mlp, width),
    }
    return {"embed": draw(11, width), "layers": [layer(), layer()], "norm": near_one(width)}


TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 11, (4, 7)))


def loss(params, step):
    tokens = (TOKENS + step) % 11
    logits = transformer(params, tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


STRIDE = 5  # steps of one program, so that a run before growth and one after it share it


@functools.lru_cache(maxsize=4)
def stride(tx):
    def step(carry, t):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, t)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    return jax.jit(lambda carry, ts: jax.lax.scan(step, carry, ts))


def train(tx, params, state, steps, start=0):
    """What the run ends with, and the loss at every step."""
    carry, values = (params, state), []
    for ts in np.arange(start, start + steps).reshape(-1, STRIDE):
        carry, some = stride(tx)(carry, ts)
        values.append(some)
    return *carry, np.concatenate(values)


RULES = {
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "sgd": lambda: optax.sgd(0.03),
    "momentum": lambda: optax.sgd(0.01, 0.9),
    "lion": lambda: optax.lion(1e-3, weight_decay=0.1),
    "lamb": lambda: optax.lamb(1e-2),
    "adafactor": lambda: optax.adafactor(1e-2),
    "adafactor with momentum": lambda: optax.adafactor(
        1e-2, momentum=0.9, dtype_momentum=jnp.float64
    ),
    "adafactor factored": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=4),
    "muon": lambda: optax.contrib.muon(1e-2, weight_decay=0.1),
}


@pytest.fixture(scope="module")
def the_plan():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return growth.plan(transformer, transformer, weights(8, 4, 12), weights(16, 8, 24), TOKENS)


@pytest.mark.parametrize(
    "name", [n if n == "adamw" else pytest.param(n, marks=pytest.mark.slow) for n in RULES]
)
def test_a_transformer_follows_for_forty_steps(name, the_plan):
    tx, params = RULES[name](), weights(8, 4, 12)
    if name == "adafactor factored":
        # With more heads other axes of a leaf would be its two largest: nothing exact goes back.
        the_plan = growth.plan(transformer, transformer, params, weights(16, 4, 24), TOKENS)
    params, state, _ = train(tx, params, tx.init(params), 5)
    options = {"key": jax.random.key(3), "how": "uneven"}
    big = the_plan.grow(params, **options)
    big_state = the_plan.realise(**options).opt_state(tx, state, params, big)
    small = train(tx, params, state, 40, 5)
    follow = train(the_plan.realise(**options).exact(tx), big, big_state, 40, 5)
    np.testing.assert_allclose(small[2], follow[2], rtol=0, atol=1e-10)
    run = jax.jit(transformer)
    assert np.abs(run(small[0], TOKENS) - run(follow[0], TOKENS)).max() < 1e-10
    plain = train(tx, big, big_state, 40, 5)
    assert np.abs(small[2] - plain[2]).max() > 1e-4


def test_parameters_are_only_needed_for_random_copies(the_plan):
    tx, params = optax.adam(1e-2), weights(8, 4, 12)
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    options = {"key": jax.random.key(3), "how": "uneven"}
    big = the_plan.grow(params, **options)
    with_params = the_plan.realise(**options).opt_state(tx, state, params, big)
    without = the_plan.realise(**options).opt_state(tx, state)
    jax.tree.map(np.testing.assert_array_equal, with_params, without)
    assert the_plan.realise(**options).opt_state(optax.sgd(1.0), optax.sgd(1.0).init(params))
    with pytest.raises(GrowthError, match="pass params="):
        the_plan.realise(jax.random.key(3), "noise").opt_state(tx, state)
    with pytest.raises(ValueError, match="pass key="):
        the_plan.realise().opt_state(tx, state)


def mlp(params, x):
    return jax.nn.gelu(x @ params["in"] + params["b"]) @ params["out"]


@pytest.mark.parametrize("how", ["even", "noise", "zero_out"])
def test_every_operator_is_followed(how):
    """Noise, and new random units, stay where they are: the rest is the small model."""
    draw = np.random.default_rng(0).normal
    sizes = lambda n: {"in": (3, n), "b": (n,), "out": (n, 2)}
    params = {name: jnp.asarray(draw(size=shape)) for name, shape in sizes(4).items()}
    spec = lambda n: {k: jax.ShapeDtypeStruct(s, jnp.float64) for k, s in sizes(n).items()}
    x, y = jnp.asarray(draw(size=(6, 3))), jnp.asarray(draw(size=(6, 2)))
    plan = growth.plan(mlp, mlp, spec(4), spec(8), x)
    options = {"key": jax.random.key(1), "how": how}
    tx = optax.adamw(1e-2, weight_decay=0.1)

    def run(tx, params, state):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: jnp.mean((mlp(p, x) - y) ** 2))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.jit(lambda c: jax.lax.scan(step, c, None, 40))((params, state))[1]

    big = plan.grow(params, **options)
    state = plan.realise(**options).opt_state(tx, tx.init(params), params, big)
    small = run(tx, params, tx.init(params))
    np.testing.assert_allclose(
        small, run(plan.realise(**options).exact(tx), big, state), atol=1e-11
    )
    with pytest.raises(GrowthError, match="changes the function"):
        plan.realise(how="rms").exact(tx)
