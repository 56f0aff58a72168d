"""Averages of parameters against NumPy, and the swap for evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit.transforms as tt
from trainkit import TrainState

P = {"w": jnp.linspace(-1, 1, 6).reshape(3, 2)}


def drive(tx, n, params=P, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    state, update, seen = tx.init(params), jax.jit(tx.update), []
    for _ in range(n):
        g = {"w": jnp.asarray(rng.normal(size=(3, 2)), dtype)}
        u, state = update(g, state, params)
        params = tt.apply_updates(params, u)
        seen.append(np.asarray(params["w"], np.float64))
    return params, state, seen


def test_swa_is_the_mean_of_what_it_saw():
    params, state, seen = drive(tt.average_params(tt.sgd(0.1), "swa", start=4, every=3), 20)
    expected = np.mean(seen[4::3], axis=0)
    assert np.abs(np.asarray(tt.averaged(state, params)["w"]) - expected).max() < 1e-6
    assert int(state.averaged) == len(seen[4::3])


def test_ema_forgets_its_start():
    params, state, seen = drive(tt.average_params(tt.sgd(0.1), 0.8), 20)
    a = seen[0]
    for n, p in enumerate(seen[1:], start=1):
        d = min(0.8, n / (n + 1))
        a = d * a + (1 - d) * p
    assert np.abs(np.asarray(tt.averaged(state, params)["w"]) - a).max() < 1e-6


def test_before_its_start_it_is_the_first_parameters():
    params, state, _ = drive(tt.average_params(tt.sgd(0.1), "swa", start=9), 3)
    assert np.array_equal(tt.averaged(state, params)["w"], P["w"])


def test_bfloat16_parameters_have_a_float32_average():
    params = {"w": jnp.ones((3, 2), jnp.bfloat16)}
    tx = tt.average_params(tt.sgd(0.0), 0.999)
    state = tx.init(params)
    moved = jax.tree.map(lambda x: x + 0.25, params)
    _, state = tx.update(params, state, params)
    for _ in range(100):
        _, state = tx.update(params, state, moved)
    a = float(state.average["w"][0, 0])
    assert a == pytest.approx(1.25 - 0.25 / 101, abs=1e-5)
    assert tt.averaged(state, params)["w"].dtype == jnp.bfloat16


def test_swap_goes_there_and_back():
    tx = tt.named(avg=tt.average_params(tt.adam(0.1), 0.9))
    state = TrainState.create(P, tx)
    for _ in range(3):
        u, opt_state = tx.update(P, state.opt_state, state.params)
        state = state.replace(params=tt.apply_updates(state.params, u), opt_state=opt_state)
    evaluated = tt.swap(state)
    assert np.array_equal(evaluated.params["w"], tt.averaged(state)["w"])
    assert not np.array_equal(evaluated.params["w"], state.params["w"])
    back = tt.swap(evaluated)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert np.array_equal(a, b)


def grouped(*rules):
    """Some steps of groups, the parameters after each, and what each rule gives by itself."""
    params = {"head": jnp.linspace(-1, 1, 6).reshape(3, 2), "body": {"w": jnp.ones(4)}, "z": P["w"]}
    tx = tt.groups(list(zip(("head", "body", ".*"), rules, strict=True)))
    state, update, own = TrainState.create(params, tx), jax.jit(tx.update), {}
    for t in range(4):
        g = jax.tree.map(lambda p, t=t: jnp.sin(3 * p + t), state.params)
        u, opt_state = update(g, state.opt_state, state.params)
        for rule, name in zip(rules, params, strict=True):
            if rule is not None:
                p, s = own.get(name, (params[name], rule.init(params[name])))
                v, s = jax.jit(rule.update)(g[name], s, p)
                own[name] = tt.apply_updates(p, v), s
        state = state.replace(params=tt.apply_updates(state.params, u), opt_state=opt_state)
    return state, own


def near(a, b):
    """Rates of groups are float32 in the state, those of a rule alone are Python's."""
    return all(
        jnp.allclose(x, y, rtol=1e-4, atol=1e-5)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_averages_in_groups_are_those_of_their_own_parameters():
    state, own = grouped(
        tt.average_params(tt.adam(0.1), 0.5), tt.average_params(tt.sgd(0.1), "swa"), None
    )
    found = tt.averaged(state)
    for name in ("head", "body"):
        params, alone = own[name]
        assert near(found[name], tt.averaged(alone, params))
        assert not near(found[name], state.params[name])
    assert np.array_equal(found["z"], state.params["z"])
    swapped = tt.swap(state)
    assert near(swapped.params, found)
    assert near(tt.swap(swapped).params, state.params)
    assert near(tt.averaged(swapped), state.params)
    twice = tt.chain(tt.average_params(tt.sgd(0.1)), tt.average_params(tt.scale(1.0))).init(P)
    with pytest.raises(ValueError, match=r"2 averages.*more than one of them for 'w'"):
        tt.averaged(twice, P)


def test_schedule_free_rules_in_groups_are_evaluated_each_at_its_own():
    state, own = grouped(
        tt.schedule_free(0.1, b1=0.8), tt.sgd(0.1), tt.schedule_free_adamw(0.1, b1=0.9)
    )
    found = tt.schedule_free_params(state, state.params)
    for name in ("head", "z"):
        params, alone = own[name]
        assert near(found[name], tt.schedule_free_params(alone, params))
        assert not near(found[name], state.params[name])
    assert np.array_equal(found["body"]["w"], state.params["body"]["w"])


def test_accumulation_and_the_guard_around_it_average_true_steps_only():
    inner = tt.average_params(tt.sgd(0.1), "swa")
    tx = tt.skip_nonfinite(tt.accumulate(inner, 2))
    state, params = tx.init(P), P
    for i in range(6):
        g = jax.tree.map(lambda x, i=i: x * (jnp.nan if i == 2 else 1.0), P)
        u, state = tx.update(g, state, params)
        params = tt.apply_updates(params, u)
    assert int(state.inner_state.inner_state.averaged) == 2


def test_donation():
    tx = tt.average_params(tt.adam(0.1), 0.9)
    params = jax.tree.map(jnp.copy, P)
    state = tx.init(params)
    update = jax.jit(tx.update, donate_argnums=(1, 2))
    u, state = update(P, state, params)
    assert bool(jnp.isfinite(u["w"]).all())


def test_bad_input():
    with pytest.raises(ValueError, match="'mean'"):
        tt.average_params(tt.sgd(0.1), "mean")
    with pytest.raises(ValueError, match=r"decay.*\[0, 1\)"):
        tt.average_params(tt.sgd(0.1), 1.0)
    tx = tt.average_params(tt.sgd(0.1))
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(P, tx.init(P))
    with pytest.raises(ValueError, match="0 averages"):
        tt.averaged(tt.sgd(0.1).init(P), P)
