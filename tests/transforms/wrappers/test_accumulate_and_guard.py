"""Accumulation, the guard, and both in either order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit.transforms as tt

P = {"w": jnp.linspace(-1, 1, 6).reshape(3, 2), "s": jnp.float32(0.5), "z": jnp.zeros((0,))}


def gradients(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), P)
        for _ in range(n)
    ]


def drive(tx, gs, weights=None, params=P):
    state, update = tx.init(params), jax.jit(tx.update)
    for i, g in enumerate(gs):
        extra = {} if weights is None else {"weight": weights[i]}
        u, state = update(g, state, params, **extra)
        params = jax.tree.map(jnp.add, params, u)
    return params, state, update


def close(a, b, tolerance=1e-6):
    return all(
        jnp.allclose(x, y, atol=tolerance, rtol=tolerance)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def same(a, b):
    return all(
        np.array_equal(x, y, equal_nan=True)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def nan(g):
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), g)


def test_uneven_weights_give_the_gradient_of_the_whole():
    gs, weights = gradients(6), [3.0, 1.0, 4.0, 2.0, 0.0, 5.0]
    mean = lambda g, w: jax.tree.map(
        lambda *x: sum(wi * xi for wi, xi in zip(w, x, strict=True)) / sum(w), *g
    )
    found, state, update = drive(tt.accumulate(tt.adam(0.1), 3), gs, weights)
    expected, _, _ = drive(tt.adam(0.1), [mean(gs[:3], weights[:3]), mean(gs[3:], weights[3:])])
    assert close(found, expected, 1e-5)  # the order of a sum, which Adam's division magnifies
    assert int(state.gradient_step) == 2
    assert bool(tt.has_updated(state))
    assert update._cache_size() == 1


def test_equal_gradients_are_one_and_zeros_lie_between():
    (g,) = gradients(1)
    tx = tt.accumulate(tt.sgd(1.0), 4)
    state = tx.init(P)
    for i in range(4):
        u, state = tx.update(g, state, P)
        assert any(bool(x.any()) for x in jax.tree.leaves(u)) == (i == 3)
    assert same(u, jax.tree.map(jnp.negative, g))


def test_a_masked_micro_batch_may_be_nan_at_weight_zero():
    gs = gradients(2)
    found, _, _ = drive(tt.accumulate(tt.sgd(1.0), 2), [gs[0], nan(gs[1])], [2.0, 0.0])
    assert close(found, drive(tt.sgd(1.0), [gs[0]])[0])
    nothing, _, _ = drive(tt.accumulate(tt.sgd(1.0), 2), gs, [0.0, 0.0])
    assert same(nothing, P)


def test_a_nan_does_not_outlive_its_window():
    gs = gradients(6)
    bad = [gs[0], nan(gs[1]), *gs[2:]]
    tx = tt.accumulate(tt.sgd(1.0, momentum=None), 2)
    state = tx.init(P)
    outs = []
    for g in bad:
        u, state = tx.update(g, state, P)
        outs.append(u)
    assert not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(outs[1]))
    later = [jnp.isfinite(x).all() for u in outs[2:] for x in jax.tree.leaves(u)]
    assert all(map(bool, later))


def test_guard_outside_costs_a_micro_step_and_inside_a_window():
    gs = gradients(6)
    bad = [gs[0], nan(gs[1]), *gs[2:]]
    adam = tt.adam(0.1)
    outside, s, _ = drive(tt.skip_nonfinite(tt.accumulate(adam, 2)), bad)
    # The micro-step is left out, and the window goes on with the next.
    expected, _, _ = drive(tt.accumulate(adam, 2), [gs[0], *gs[2:]])
    assert close(outside, expected)
    assert int(s.skipped) == 1
    inside, s, _ = drive(tt.accumulate(tt.skip_nonfinite(adam), 2), bad)
    expected, _, _ = drive(tt.accumulate(adam, 2), gs[2:])
    assert close(inside, expected)
    assert int(s.inner_state.skipped) == 1


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_skipped_step_is_as_if_it_had_not_been(value):
    gs = gradients(4)
    bad = jax.tree.map(lambda x: x, gs[0])
    bad["w"] = bad["w"].at[1, 1].set(value)
    tx = tt.skip_nonfinite(tt.adamw(0.1))
    _, before, update = drive(tx, gs[:2])
    u, after = update(bad, before, P)
    assert not any(bool(x.any()) for x in jax.tree.leaves(u))
    assert same(after.inner_state, before.inner_state)
    assert (int(after.skipped), int(after.in_a_row)) == (1, 1)
    u1, s1 = update(gs[2], after, P)
    u2, s2 = update(gs[2], before, P)
    assert same(u1, u2)
    assert same(s1.inner_state, s2.inner_state)
    assert int(s1.in_a_row) == 0


def test_the_guard_never_gives_in_and_says_so():
    tx = tt.skip_nonfinite(tt.sgd(1.0))
    params, state, _ = drive(tx, [nan(P)] * 30)
    assert same(params, P)
    tt.check_guard(state, limit=30)
    with pytest.raises(FloatingPointError, match="30 updates in a row"):
        tt.check_guard(state, limit=5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_sums_are_wide_and_the_state_is_a_fixpoint(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), P)
    g = jax.tree.map(lambda x: jnp.full_like(x, 300.0), params)
    tx = tt.skip_nonfinite(tt.accumulate(tt.adamw(1e-2), 300))
    state, update = tx.init(params), jax.jit(tx.update)
    kinds = lambda s: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), s)
    for _ in range(300):
        u, new = update(g, state, params, weight=2.0)
        assert kinds(new) == kinds(state)
        state = new
    # 2 · 300 · 300 does not fit float16; its mean does.
    assert jnp.allclose(u["w"].astype(jnp.float32), -1e-2, rtol=2e-2)
    assert u["w"].dtype == jnp.dtype(dtype)
    assert update._cache_size() == 1


def test_it_scans_and_maps():
    gs = jax.tree.map(lambda *x: jnp.stack(x), *gradients(6))
    tx = tt.accumulate(tt.adam(0.1), 3)

    def step(carry, g):
        p, s = carry
        u, s = tx.update(g, s, p)
        return (jax.tree.map(jnp.add, p, u), s), None

    scanned = jax.lax.scan(step, (P, tx.init(P)), gs)[0]
    looped = drive(tx, gradients(6))
    assert close(scanned[0], looped[0])
    many = jax.vmap(tx.init)(jax.tree.map(lambda x: jnp.stack([x, x]), P))
    two = jax.tree.map(lambda g: jnp.stack([g, 2 * g]), gradients(1)[0])
    _, s = jax.vmap(tx.update)(two, many, jax.tree.map(lambda x: jnp.stack([x, x]), P))
    assert s.micro_step.tolist() == [1, 1]


def test_under_shard_map_with_one_decision():
    from jax.sharding import Mesh, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("d",))
    tx = tt.skip_nonfinite(tt.accumulate(tt.adam(0.1), 2))

    def step(g, s, p):
        g = jax.tree.map(lambda x: jax.lax.pmean(x[0], "d"), g)
        return tx.update(g, s, p)

    sharded = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(PartitionSpec("d"), PartitionSpec(), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )
    each = gradients(8)
    mean = jax.tree.map(lambda *x: sum(x) / 8, *each)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *each)
    s, t = tx.init(P), tx.init(P)
    for _ in range(4):
        u, s = sharded(stacked, s, P)
        v, t = tx.update(mean, t, P)
        assert close(u, v)


def test_bad_input():
    with pytest.raises(ValueError, match="every"):
        tt.accumulate(tt.sgd(1.0), 0)
    tx = tt.accumulate(tt.sgd(1.0), 2)
    with pytest.raises(ValueError, match=r"weight.*-1"):
        tx.update(P, tx.init(P), P, weight=-1.0)
    with pytest.raises(ValueError, match="'other'"):
        tx.update({"other": jnp.ones(2)}, tx.init(P))
