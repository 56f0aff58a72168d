"""The pace against its formula, computed apart from it in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from trainkit.progressive.stages.pace import LeafPace, after_growth, begin_decay, lower, paced


def factors(tx, state, steps):
    params, grads = {"a": jnp.zeros(()), "b": jnp.zeros(())}, {"a": jnp.ones(()), "b": jnp.ones(())}
    update = jax.jit(tx.update)
    found = []
    for _ in range(steps):
        updates, state = update(grads, state, params)
        found.append([-float(updates["a"]), -float(updates["b"])])
    return np.array(found), state


def test_the_whole_formula():
    tx = paced(optax.sgd(1.0), warmup=4)
    state = tx.init({"a": jnp.zeros(()), "b": jnp.zeros(())})
    first, state = factors(tx, state, 6)
    state = lower(state, 0.5)
    leaves = {"a": LeafPace(0.0, 4.0, 1.0), "b": LeafPace(0.25, 8.0, 0.5)}
    state = after_growth(state, state.inner, leaves)
    state = begin_decay(state, at=10, steps=10)
    second, _ = factors(tx, state, 16)

    t = np.arange(22.0)
    pace = np.minimum(1, (t + 1) / 4) * np.where(t < 6, 1.0, 0.5)
    pace = pace * (1 - np.clip((t - 10) / 10, 0, 1))
    a = np.where(t < 6, 1.0, np.clip((t + 1 - 6) / 4, 0, 1))
    b = np.where(t < 6, 1.0, 0.25 + 0.25 * np.clip((t + 1 - 6) / 8, 0, 1))
    expected = np.stack([pace * a, pace * b], 1)
    # A handful of float32 operations.
    np.testing.assert_allclose(np.concatenate([first, second]), expected, atol=1e-6)


def test_without_anything_set_it_is_the_transformation_itself():
    plain, tx = optax.adam(1e-2), paced(optax.adam(1e-2))
    params = {"w": jnp.arange(3.0)}
    state, other = tx.init(params), plain.init(params)
    for seed in range(5):
        grads = {"w": jax.random.normal(jax.random.key(seed), (3,))}
        with jax.numpy_dtype_promotion("standard"):  # Optax's own Adam needs it
            ours, state = tx.update(grads, state, params)
            theirs, other = plain.update(grads, other, params)
        np.testing.assert_array_equal(ours["w"], theirs["w"])


def test_moving_the_decay_compiles_nothing_again():
    tx = paced(optax.sgd(1.0))
    params = {"w": jnp.zeros(())}
    update = jax.jit(tx.update)
    state = jax.device_put(tx.init(params), jax.devices()[0])  # as a step's states are
    _, state = update(params, state, params)
    _, state = update(params, begin_decay(lower(state, 0.5), at=3, steps=5), params)
    assert update._cache_size() == 1


def slow_weights(params, grads, factors, period, share):
    """Lookahead around gradient descent whose k-th step is multiplied by a factor."""
    slow, fast, path = params, params, []
    for step, (g, factor) in enumerate(zip(grads, factors, strict=True)):
        fast = fast - factor * g
        if (step + 1) % period == 0:
            slow = slow + share * (fast - slow)
            fast = slow
        path.append(fast)
    return np.array(path)


GROUPS = lambda tx: tt.groups([("a", tx), ("b", optax.sgd(1.0))])


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: tx,
        lambda tx: optax.chain(optax.clip(10.0), tx),
        tt.skip_nonfinite,
        GROUPS,
    ],
)
def test_the_inner_steps_of_slow_weights_are_paced_and_not_their_jumps(around):
    tx = paced(around(tt.lookahead(tt.sgd(1.0), 2, 0.5)), warmup=3)
    params = {"a": jnp.array([4.0, -1.0]), "b": jnp.ones(3)}
    state = begin_decay(lower(tx.init(params), 0.5), at=5, steps=4)
    grads = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    factors = [0.5 * min(1, (t + 1) / 3) * (1 - min(max(t - 5, 0) / 4, 1)) for t in range(9)]
    found = []
    for g in grads:
        given = {"a": jnp.asarray(g), "b": jnp.full(3, float(g[0]))}
        updates, state = tx.update(given, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params["a"])
    expected = slow_weights(np.array([4.0, -1.0]), grads.astype(float), factors, 2, 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # float32 sums of nine steps
    if around is GROUPS:
        plain = 1.0 - np.sum(np.array(factors) * grads[:, 0])
        np.testing.assert_allclose(params["b"], plain, atol=1e-6)


def test_slow_weights_of_rearranged_leaves_are_refused():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    tx = paced(optax.flatten(tt.lookahead(tt.sgd(1.0), 2)))
    with pytest.raises(ValueError, match=r"not optax\.flatten\(lookahead\(tx\)\)"):
        tx.update(params, tx.init(params), params)
    tx = paced(tt.lookahead(optax.flatten(tt.sgd(1.0)), 2))
    tx.update(params, tx.init(params), params)


def test_half_precision_updates_stay_so():
    tx = paced(optax.sgd(1.0))
    params = {"w": jnp.zeros((), jnp.bfloat16)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["w"].dtype == jnp.bfloat16


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"warmup must be .*not -1"):
        paced(optax.sgd(1.0), warmup=-1)
    state = paced(optax.sgd(1.0)).init({"w": jnp.zeros(())})
    with pytest.raises(ValueError, match=r"steps must be .*not 0"):
        begin_decay(state, at=1, steps=0)
