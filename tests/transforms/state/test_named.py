"""Reading and setting a live state by name: eager, jitted, under pmap, and sharded."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import trainkit.transforms as tt
from trainkit import TrainState, schedules

PARAMS = {"dense": {"kernel": jnp.linspace(-1, 1, 32).reshape(8, 4), "bias": jnp.ones(4)}}


def chain():
    return tt.named(clip=tt.clip_by_global_norm(1.0), adam=tt.adamw(1e-3, weight_decay=0.1))


def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def test_every_way_to_a_name():
    tx = chain()
    state = tx.init(PARAMS)
    _, state = tx.update(PARAMS, state, PARAMS)
    for name in ("learning_rate", "adam.learning_rate", "adam.hyperparams.learning_rate"):
        assert float(tt.get(state, name)) == pytest.approx(1e-3)
    assert tt.get(state, "mu")["dense"]["kernel"].shape == (8, 4)
    assert tt.get(state, "adam.mu.dense.bias").shape == (4,)
    assert tt.get(state, ("adam", "nu", "dense", "bias")).shape == (4,)
    assert tt.get(state, "adam") is state["adam"]
    assert {k.split(".")[-1] for k in tt.get(state)} == {
        "max_norm", "learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay",
    }  # fmt: skip


def test_pairs_a_mapping_and_keywords_are_one():
    parts = {"clip": tt.clip_by_value(1.0), "sgd": tt.sgd(0.1)}
    for tx in (tt.named(*parts.items()), tt.named(parts), tt.named(**parts)):
        state = tx.init(PARAMS)
        assert list(state) == ["clip", "sgd"]
        updates, _ = tx.update(jax.tree.map(lambda p: 100 * p, PARAMS), state, PARAMS)
        assert float(jnp.abs(updates["dense"]["kernel"]).max()) == pytest.approx(0.1)


def test_what_is_set_acts_without_recompiling():
    tx = chain()
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    first, _ = update(PARAMS, state, PARAMS)
    halved = tt.set(state, "learning_rate", 5e-4)
    second, after = update(PARAMS, halved, PARAMS)
    assert update._cache_size() == 1
    assert kinds(after) == kinds(state)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert jnp.allclose(a, 2 * b, rtol=1e-6)
    assert float(tt.get(after, "learning_rate")) == pytest.approx(5e-4)
    assert float(tt.get(state, "learning_rate")) == pytest.approx(1e-3)  # nothing is mutated


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_injected_is_direct(dtype):
    """Bitwise but for 1 − β, which the direct rule rounds from float64: 2e-5 at β₂ = .999."""
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    direct, other = tt.adamw(1e-2), tt.named(a=tt.adamw(1e-2))
    s, t = direct.init(params), other.init(params)
    for i in range(5):
        g = jax.tree.map(lambda x, i=i: jnp.sin(x * (i + 1)), params)
        u, s = direct.update(g, s, params)
        v, t = other.update(g, t, params)
        assert jax.tree.map(lambda x: x.dtype, u) == jax.tree.map(lambda x: x.dtype, params)
        tolerance = 2e-5 if dtype == "float32" else float(jnp.finfo(dtype).eps)
        for a, b in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
            a, b = (np.asarray(x, np.float64) for x in (a, b))
            assert np.isfinite(a).all()
            assert np.abs(a - b).max() <= tolerance * np.abs(a).max()


def test_injected_optax_in_bfloat16():
    """Where `optax.inject_hyperparams` makes β₂ = .999 a 1 and the update NaN."""
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    tx = tt.inject(optax.adamw)(learning_rate=1e-2)
    updates, state = tx.update(params, tx.init(params), params)
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))
    assert tt.get(state, "b2").dtype == jnp.float32
    assert float(tt.get(state, "b2")) == pytest.approx(0.999)
    assert kinds(state) == kinds(tx.init(params))


def test_float64_hyperparameters_for_float64_parameters(x64):
    params = {"w": jnp.ones(3, jnp.float64)}
    tx = tt.named(a=tt.adamw(0.1))
    updates, state = tx.update(params, tx.init(params), params)
    assert tt.get(state, "b2").dtype == jnp.float64
    direct = tt.adamw(0.1).update(params, tt.adamw(0.1).init(params), params)[0]
    assert float(jnp.abs(updates["w"] - direct["w"]).max()) < 1e-15


def test_a_schedule_is_read_held_and_resumed():
    tx = tt.named(sgd=tt.sgd(schedules.linear(1.0, 0.0, 10)))
    update, state, seen = jax.jit(tx.update), tx.init(PARAMS), []
    for i in range(6):
        if i == 2:
            state = tt.set(state, "learning_rate", 0.25)
        if i == 4:
            state = tt.set(state, "learning_rate", None)
        _, state = update(PARAMS, state)
        seen.append(round(float(tt.get(state, "learning_rate")), 6))
    assert seen == [1.0, 0.9, 0.25, 0.25, 0.6, 0.5]
    assert update._cache_size() == 1


def test_set_within_a_compiled_program():
    tx = tt.named(sgd=tt.sgd(1.0))

    @jax.jit
    def step(state, scale):
        state = tt.set(state, "learning_rate", 0.5 * scale)
        return tx.update(PARAMS, state)[0]

    updates = step(tx.init(PARAMS), 0.5)
    assert jnp.allclose(updates["dense"]["bias"], -0.25)


def test_a_train_state_is_taken_whole():
    state = TrainState.create(PARAMS, chain())
    state = tt.set(state, {"learning_rate": 0.5, "b1": 0.8})
    assert isinstance(state, TrainState)
    assert float(tt.get(state, "learning_rate")) == 0.5
    assert float(tt.get(state, "b1")) == pytest.approx(0.8)


def test_a_state_stacked_by_pmap():
    tx, n = chain(), jax.device_count()
    stack = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * n), tree)
    traces = []

    @jax.pmap
    def update(*args):
        traces.append(1)
        return tx.update(*args)

    params = stack(PARAMS)
    _, state = update(params, stack(tx.init(PARAMS)), params)
    _, state = update(params, state, params)  # now the state lies as pmap itself puts it
    before = len(traces)
    assert tt.get(state, "learning_rate").shape == ()
    assert float(tt.get(state, "learning_rate")) == pytest.approx(1e-3)
    assert tt.get(state, "mu")["dense"]["bias"].shape == (n, 4)
    state = tt.set(state, "learning_rate", 0.5)
    updates, state = update(params, state, params)
    assert len(traces) == before
    assert float(tt.get(state, "learning_rate")) == 0.5
    assert float(jnp.abs(updates["dense"]["kernel"]).max()) > 0.1
    assert state["adam"].hyperparams["learning_rate"].shape == (n,)


def test_a_sharded_state():
    mesh = Mesh(np.array(jax.devices()), ("d",))
    rows, whole = NamedSharding(mesh, PartitionSpec("d")), NamedSharding(mesh, PartitionSpec())
    place = lambda tree: jax.tree.map(
        lambda x: jax.device_put(x, rows if x.shape[:1] == (8,) else whole), tree
    )
    tx = chain()
    update, params, state = jax.jit(tx.update), place(PARAMS), place(tx.init(PARAMS))
    _, state = update(params, state, params)
    compiled = update._cache_size()
    _, state = update(params, state, params)
    state = tt.set(state, "learning_rate", 0.5)
    state = tt.set(state, "mu", jax.tree.map(jnp.ones_like, PARAMS))
    assert tt.get(state, "mu")["dense"]["kernel"].sharding == rows
    _, state = update(params, state, params)
    assert update._cache_size() == compiled
    assert float(tt.get(state, "learning_rate")) == 0.5


def test_ensembles_have_a_rate_for_each_member():
    tx = tt.named(sgd=tt.sgd(1.0))
    params = {"w": jnp.ones((3, 2))}
    state = jax.vmap(tx.init)(params)
    state = tt.set(state, "learning_rate", jnp.array([1.0, 2.0, 3.0]))
    updates, state = jax.vmap(tx.update)(params, state)
    assert updates["w"][:, 0].tolist() == [-1, -2, -3]
    assert tt.get(state, "learning_rate").tolist() == [1, 2, 3]


def test_names_that_are_not_there_or_are_two():
    tx = tt.named(one=tt.adam(1e-3), two=tt.sgd(1.0))
    state = tx.init(PARAMS)
    with pytest.raises(KeyError, match=r"'lr'.*learning_rate"):
        tt.get(state, "lr")
    with pytest.raises(KeyError, match=r"several parts.*one.*two"):
        tt.get(state, "learning_rate")
    with pytest.raises(ValueError, match=r"learning_rate.*-1"):
        tt.set(state, "one.learning_rate", -1.0)
    with pytest.raises(ValueError, match=r"b1.*\[0, 1\)"):
        tt.set(state, "b1", 1.0)
    with pytest.raises(ValueError, match="no schedule"):
        tt.set(state, "two.learning_rate", None)
    with pytest.raises(ValueError, match="tree"):
        tt.set(state, "mu", {"other": jnp.ones(3)})
    with pytest.raises(ValueError, match="shape"):
        tt.set(state, "mu.dense.bias", jnp.ones(7))
    with pytest.raises(ValueError, match="twice"):
        tt.named(("a", tt.sgd(1.0)), ("a", tt.sgd(1.0)))
    with pytest.raises(ValueError, match="at least one"):
        tt.named()
    with pytest.raises(TypeError, match="'a'"):
        tt.named(a=lambda g: g)
    with pytest.raises(TypeError, match=r"inject\(optax.adamw\)"):
        tt.inject(optax.adamw(1e-3))
