"""The checks of ../test_own_rule.py by hand: one test for each law."""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def normalised_momentum(learning_rate=1e-2, beta=0.9, weight_decay=0.1):
    """Momentum of the size 1 (root mean square) in every leaf, and decoupled weight decay."""

    def init(params):
        return jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params):
        count, momentum = optax.safe_increment(state[0]), state[1]
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, momentum, grads)

        def step(m, p):
            size = jnp.sqrt(jnp.mean(jnp.square(m)))
            unit = m / jnp.where(size > 0, size, 1)
            return -learning_rate * (unit + weight_decay * p)

        return jax.tree.map(step, momentum, params), (count, momentum)

    return optax.GradientTransformation(init, update)


def tree(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return {"w": draw(3, 4), "inner": {"b": draw(4), "s": draw()}, "other": draw(3, 4)}


def problem(steps=4, dtype=jnp.float32):
    return tree(0, dtype), [tree(seed, dtype) for seed in range(1, steps + 1)]


def run(tx, params, grads):
    """The updates of every step, and the last state."""
    state, out = tx.init(params), []
    for g in grads:
        updates, state = tx.update(g, state, params)
        out.append(updates)
    return out, state


def alike(a, b, **tolerance):
    def same(x, y):
        if tolerance:
            np.testing.assert_allclose(np.float32(x), np.float32(y), **tolerance)
        else:
            np.testing.assert_array_equal(x, y)

    jax.tree.map(same, a, b)


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)


CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def test_purity():
    params, grads = problem()
    before = jax.tree.map(np.array, (params, grads))
    first, _ = run(normalised_momentum(), params, grads)
    run(normalised_momentum(), params, grads[::-1])
    alike(first, run(normalised_momentum(), params, grads)[0])
    alike(before, jax.tree.map(np.array, (params, grads)))


def test_memory(monkeypatch):
    params, grads = problem(1)
    first = run(normalised_momentum(), params, grads)
    poisoned = lambda shape, dtype=jnp.float32, **_: jnp.full(shape, 99, dtype)
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(jnp, name, poisoned)
        monkeypatch.setattr(np, name, poisoned)
    alike(first, run(normalised_momentum(), params, grads))


def test_jit_is_eager():
    tx, (params, grads) = normalised_momentum(), problem()
    jitted = optax.GradientTransformation(tx.init, jax.jit(tx.update))
    alike(run(tx, params, grads), run(jitted, params, grads), **CLOSE)


def test_one_compile():
    tx, (params, grads), traced = normalised_momentum(), problem(), []

    @jax.jit
    def step(g, state):
        traced.append(1)
        return tx.update(g, state, params)

    state = tx.init(params)
    for g in grads:
        _, state = step(g, state)
    step(grads[0], jax.device_put(jax.device_get(state)))
    assert len(traced) == 1


@pytest.mark.parametrize(
    "container",
    [lambda x, y: (x, y), lambda x, y: [x, (y,)], lambda x, y: {"a": {"b": x}, "c": y}],
)
def test_structure(container):
    params = container(jnp.ones((2, 3)), jnp.ones(()))
    (updates,), _ = run(normalised_momentum(), params, [params])
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    empty = {"w": jnp.ones((0, 3)), "b": jnp.ones(2)}
    (updates,), _ = run(normalised_momentum(), empty, [empty])
    assert updates["w"].shape == (0, 3)
    assert jnp.isfinite(updates["b"]).all()


def test_state_fixpoint():
    tx, (params, grads) = normalised_momentum(), problem()
    assert described(run(tx, params, grads)[1]) == described(tx.init(params))


def test_abstract_init():
    tx, (params, _) = normalised_momentum(), problem()
    abstract, state = jax.eval_shape(tx.init, params), tx.init(params)
    assert described(abstract) == described(state)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_promotion(dtype):
    params, grads = problem(2, dtype)
    out, _ = run(normalised_momentum(), params, grads)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(dtype)}


def test_donation():
    tx, (params, grads) = normalised_momentum(), problem(1)
    state = tx.init(params)
    leaves = jax.tree.leaves((params, state))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    expected, _ = tx.update(grads[0], state, params)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(1, 2))
    alike(expected, step(grads[0], state, params)[0], **CLOSE)


def test_leaf_names():
    params, grads = problem()

    def swapped(tree):
        return {"a": tree["other"], "inner": tree["inner"], "z": tree["w"]}

    one, _ = run(normalised_momentum(), params, grads)
    two, _ = run(normalised_momentum(), swapped(params), list(map(swapped, grads)))
    alike(list(map(swapped, one)), two, **CLOSE)


@pytest.mark.parametrize("changed", [{"learning_rate": 0.1}, {"beta": 0.5}, {"weight_decay": 0.0}])
def test_hyperparameters(changed):
    params, grads = problem()
    one, _ = run(normalised_momentum(), params, grads)
    two, _ = run(normalised_momentum(**changed), params, grads)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True))


def test_identity_and_associativity():
    tx, (params, grads) = normalised_momentum(), problem()
    expected, _ = run(tx, params, grads)
    scale = optax.scale(2.0)
    for chain in (optax.chain(tx, optax.identity()), optax.chain(optax.identity(), tx)):
        alike(expected, run(chain, params, grads)[0], **CLOSE)
    left = optax.chain(optax.chain(scale, tx), scale)
    right = optax.chain(scale, optax.chain(tx, scale))
    alike(run(left, params, grads)[0], run(right, params, grads)[0], **CLOSE)


def test_masked_and_partitioned():
    tx, (params, grads) = normalised_momentum(), problem()
    expected, _ = run(tx, params, grads)
    everything = optax.masked(tx, jax.tree.map(lambda _: True, params))
    alike(expected, run(everything, params, grads)[0], **CLOSE)
    labels = {"w": "one", "inner": "two", "other": "one"}
    parted = optax.partition({"one": tx, "two": normalised_momentum()}, labels)
    out, _ = run(parted, params, grads)
    for names in (["w", "other"], ["inner"]):
        part = lambda tree, names=names: {name: tree[name] for name in names}
        alone, _ = run(normalised_momentum(), part(params), list(map(part, grads)))
        alike(alone, list(map(part, out)), **CLOSE)


def test_vmap_is_a_loop():
    tx = normalised_momentum()
    params, grads = [tree(seed) for seed in (0, 1)], [tree(seed) for seed in (2, 3)]
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    once = lambda p, g: tx.update(g, tx.init(p), p)[0]
    together = jax.vmap(once)(stack(params), stack(grads))
    alike(stack([once(p, g) for p, g in zip(params, grads, strict=True)]), together, **CLOSE)


def test_scan_is_a_loop():
    tx, (params, grads) = normalised_momentum(), problem()
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    step = lambda state, g: tx.update(g, state, params)[::-1]
    state, updates = jax.lax.scan(step, tx.init(params), stacked)
    expected, last = run(tx, params, grads)
    alike(last, state, **CLOSE)
    alike(jax.tree.map(lambda *x: jnp.stack(x), *expected), updates, **CLOSE)


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_degree(factor):
    params, grads = problem()
    params = jax.tree.map(jnp.zeros_like, params)
    scaled = [jax.tree.map(lambda g: factor * g, each) for each in grads]
    one, _ = run(normalised_momentum(), params, grads)
    alike(one, run(normalised_momentum(), params, scaled)[0], **CLOSE)


def test_bfloat16():
    whole, half = problem(), problem(dtype=jnp.bfloat16)
    one, two = (run(normalised_momentum(), *each)[0] for each in (whole, half))
    alike(one, two, rtol=0.1, atol=5e-4)


def test_zero_gradients():
    params, grads = problem()
    zeros = [jax.tree.map(jnp.zeros_like, params)] * 2
    for each in (zeros, [grads[0], *zeros], [zeros[0], grads[0]]):
        out, state = run(normalised_momentum(), params, each)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((out, state)))


@pytest.mark.parametrize("axis", ["batch", "data", "device", "devices", "i", "model"])
def test_no_collective(axis):
    tx = normalised_momentum()
    params, grads = jnp.array([[1.0, 2.0]] * 2), jnp.array([[0.5, -1.0], [0.25, 3.0]])
    once = lambda p, g: tx.update(g, tx.init(p), p)[0]
    both = jax.vmap(once, axis_name=axis)(params, grads)
    alike(jnp.stack([once(p, g) for p, g in zip(params, grads, strict=True)]), both, **CLOSE)


def test_placements():
    tx, (params, grads) = normalised_momentum(), problem(2)
    devices = jax.devices()[:4]
    mesh = Mesh(np.array(devices), ("data",))
    expected, _ = run(tx, params, grads)
    jitted = optax.GradientTransformation(jax.jit(tx.init), jax.jit(tx.update))
    for axis in (None, "data"):
        # The last axis is cut where it has four places.
        spec = lambda x, axis=axis: [None] * (x.ndim - 1) + [axis] if x.shape[-1:] == (4,) else []
        layout = lambda x, spec=spec: NamedSharding(mesh, PartitionSpec(*spec(x)))
        placed = jax.tree.map(lambda x, layout=layout: jax.device_put(x, layout(x)), problem(2))
        alike(expected, run(jitted, *placed)[0], **CLOSE)
    copies = lambda t: jax.tree.map(lambda x: jnp.stack([x] * len(devices)), t)
    mapped = optax.GradientTransformation(
        jax.pmap(tx.init, devices=devices), jax.pmap(tx.update, devices=devices)
    )
    out, _ = run(mapped, copies(params), [copies(g) for g in grads])
    alike(expected, jax.tree.map(lambda x: x[0], out), **CLOSE)
    spread = jax.shard_map(
        lambda g, s, p: tx.update(g, s, p), mesh=mesh, in_specs=PartitionSpec(),
        out_specs=PartitionSpec(), check_vma=False,
    )  # fmt: skip
    sharded = optax.GradientTransformation(tx.init, spread)
    alike(expected, run(sharded, params, grads)[0], **CLOSE)


def test_resume():
    tx, (params, grads) = normalised_momentum(), problem()
    _, state = run(tx, params, grads[:-1])
    expected, _ = tx.update(grads[-1], state, params)
    restored = [
        jax.device_put(jax.device_get(state)),
        serialization.from_bytes(state, serialization.to_bytes(state)),
    ]
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as saver:
        saver.save(f"{folder}/state", state)
        saver.wait_until_finished()
        restored.append(saver.restore(f"{folder}/state", state))
    for each in restored:
        alike(expected, tx.update(grads[-1], each, params)[0])


def test_decoupled_decay():
    params, grads = problem()
    other, rate = tree(9), 1e-2 * 0.1
    ours, theirs = (run(normalised_momentum(), each, grads)[0] for each in (params, other))
    for one, two in zip(ours, theirs, strict=True):
        found = jax.tree.map(jnp.subtract, one, two)
        expected = jax.tree.map(lambda p, q: -rate * (p - q), params, other)
        alike(expected, found, rtol=1e-4, atol=1e-7)
