"""A plan carries a run on: the methods of `Plan` that know optimizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth import checking, zoo
from trainkit import growth
from trainkit.growth.errors import GrowthError


@pytest.fixture(autouse=True)
def _mode(x64):
    # Optax itself mixes dtypes in ways that the strict mode refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


MODEL = zoo.REGISTRY["rotary transformer"]
WIDER = {"width": 16, "heads": 8, "hidden": 24}
transformer, (TOKENS,) = MODEL.at()[0], MODEL.inputs


def weights(**sizes):
    """Scales of norms near 1, matrices so large that all of it trains."""
    rng = np.random.default_rng(0)
    draw = lambda s: 1 + 0.2 * s if s.ndim == 1 else 0.4 * s
    return jax.tree.map(lambda s: jnp.asarray(draw(rng.normal(size=s.shape))), MODEL.at(**sizes)[1])


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
        return growth.plan(transformer, transformer, weights(), weights(**WIDER), TOKENS)


@pytest.mark.parametrize(
    "name", [n if n == "adamw" else pytest.param(n, marks=pytest.mark.slow) for n in RULES]
)
def test_a_transformer_follows_for_forty_steps(name, the_plan):
    tx, params = RULES[name](), weights()
    if name == "adafactor factored":
        # With more heads other axes of a leaf would be its two largest: nothing exact goes back.
        the_plan = growth.plan(
            transformer, transformer, params, weights(**{**WIDER, "heads": 4}), TOKENS
        )
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
    tx, params = optax.adam(1e-2), weights()
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    options = {"key": jax.random.key(3), "how": "uneven"}
    big = the_plan.grow(params, **options)
    with_params = the_plan.realise(**options).opt_state(tx, state, params, big)
    without = the_plan.realise(**options).opt_state(tx, state)
    jax.tree.map(np.testing.assert_array_equal, with_params, without)
    assert the_plan.realise(**options).opt_state(optax.sgd(1.0), optax.sgd(1.0).init(params))
    with pytest.raises(GrowthError, match="pass params="):
        the_plan.realise(jax.random.key(3), "noise").opt_state(tx, state)
    with pytest.raises(ValueError, match="give key="):
        the_plan.realise().opt_state(tx, state)


@pytest.mark.slow
def test_new_layers_rest():
    tx, params = optax.adamw(1e-2), weights()
    plan = growth.plan(transformer, transformer, params, weights(depth=3), TOKENS)
    options = {"how": "even"}
    big = plan.grow(params, **options)
    state = plan.realise(**options).opt_state(tx, tx.init(params), params, big)
    small = train(tx, params, tx.init(params), 10)
    follow = train(plan.realise(**options).exact(tx), big, state, 10)
    np.testing.assert_allclose(small[2], follow[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", ["even", "noise", "zero_out"])
def test_every_operator_is_followed(how):
    """Noise, and new random units, stay where they are: the rest is the small model."""
    it = checking.small("one hidden layer", "float64")
    plan, mlp, (x,) = it.plan("wider"), it.fn, it.inputs
    params, y = it.params, jnp.sin(3 * x[:, :2])
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
