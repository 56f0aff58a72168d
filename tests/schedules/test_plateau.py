"""Plateau and stopping rules against plain Python that counts, over random metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import schedules as sc


def plateau_by_hand(metrics, factor, patience, min_delta, cooldown, least, sign):
    best, waited, cooling, scale, out = np.inf, 0, 0, 1.0, []
    for m in metrics:
        if sign * m < best - min_delta:
            best, waited = sign * m, 0
        elif cooling > 0:
            waited = 0
        else:
            waited += 1
        cooling = max(cooling - 1, 0)
        if waited >= patience:
            scale, waited, cooling = max(scale * factor, least), 0, cooldown
        out.append(scale)
    return out


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown"), [(1, 0), (3, 0), (2, 3)])
def test_reduce_on_plateau(mode, patience, cooldown):
    metrics = np.random.default_rng(0).integers(0, 20, 60) / 4  # exact in float32, with ties
    rule = sc.reduce_on_plateau(0.5, patience, 0.25, mode, cooldown, min_scale=1e-2)

    def step(state, metric):
        state = rule.update(state, metric)
        return state, state.scale

    found = jax.jit(lambda m: jax.lax.scan(step, rule.init(), m)[1])(jnp.asarray(metrics))
    sign = 1 if mode == "min" else -1
    expected = plateau_by_hand(metrics, 0.5, patience, 0.25, cooldown, 1e-2, sign)
    assert len(set(expected)) > 2
    assert found.tolist() == pytest.approx(expected)


def test_the_fifth_epoch_without_progress_reduces():
    rule = sc.reduce_on_plateau(factor=0.2, patience=5, mode="max")
    state, scales = rule.init(), []
    for accuracy in [0.9] + [0.9] * 5 + [0.95]:
        state = rule.update(state, accuracy)
        scales.append(round(float(state.scale), 6))
    assert scales == [1, 1, 1, 1, 1, 0.2, 0.2]
    assert int(state.reductions) == 1


def test_early_stopping_by_hand():
    metrics = [3.0, 2.0, 2.5, float("nan"), 1.9, 2.0, 2.0, 2.0, 0.0]
    rule = sc.early_stopping(patience=3)
    state, stops = rule.init(), []
    for m in metrics:
        state = jax.jit(rule.update)(state, m)
        stops.append(bool(state.stop))
    assert stops == [False] * 7 + [True, True]  # and it stays so, whatever comes
    assert int(state.best_at) == 8
    assert int(state.evaluations) == len(metrics)


@pytest.mark.parametrize("rule", [sc.reduce_on_plateau(), sc.early_stopping()])
def test_state_is_a_fixpoint_and_maps(rule):
    state = rule.init()
    kinds = lambda s: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), s)
    assert kinds(rule.update(state, 0.5)) == kinds(state)
    assert kinds(rule.update(state, jnp.float16(0.5))) == kinds(state)
    many = jax.tree.map(lambda x: jnp.stack([x] * 3), state)
    mapped = jax.vmap(rule.update)(many, jnp.array([1.0, 2.0, jnp.nan]))
    assert mapped.best.tolist()[:2] == [1.0, 2.0]
    assert jnp.isinf(mapped.best[2])
