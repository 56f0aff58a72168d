"""Packed state: the same numbers as the tree, through updates, growth of the tree and back."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import trainkit
import trainkit.transforms as tt
from trainkit.packed import Packed, pack_all, unpack_all


def tree():
    rng = np.random.default_rng(0)
    params = {
        f"l{i}": {"w": rng.normal(size=(3, i + 1)), "b": rng.normal(size=i)} for i in range(5)
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return params | {"half": jnp.ones((2, 2), jnp.bfloat16), "scalar": jnp.float32(2.0)}


def close(a, b, tolerance=1e-6):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype
        and np.allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), atol=tolerance)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_it_is_a_view():
    packed = Packed.pack(tree())
    assert close(packed.tree, tree(), 0)
    assert {k: v.dtype.name for k, v in packed.buffers.items()} == {
        "float32": "float32", "bfloat16": "bfloat16",
    }  # fmt: skip
    assert len(jax.tree.leaves(packed)) == 2
    assert close(jax.jit(lambda p: p)(packed).tree, tree(), 0)
    assert "in {" in repr(packed)
    abstract = jax.eval_shape(Packed.pack, tree())
    assert jax.tree.map(lambda x: x.shape, abstract.buffers) == {
        k: v.shape for k, v in packed.buffers.items()
    }
    with pytest.raises(TypeError, match="float"):
        Packed.pack({"a": 1.0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: tt.adamw(1e-2),
        lambda: tt.sgd(1e-2, 0.9),
        lambda: tt.lion(1e-2),
        lambda: tt.rmsprop(1e-2),
        lambda: tt.named(clip=tt.clip_by_global_norm(1.0), adam=tt.adam(1e-2)),
        lambda: tt.skip_nonfinite(tt.accumulate(tt.average_params(tt.adam(1e-2)), 2)),
    ],
)
def test_every_element_wise_rule_gives_the_same(make):
    tx = make()
    plain, packed = tree(), Packed.pack(tree())

    def loss(p):
        return sum(jnp.sum(jnp.sin(3 * x.astype(jnp.float32))) for x in jax.tree.leaves(p))

    @jax.jit
    def step_plain(p, s):
        u, s = tx.update(jax.grad(loss)(p), s, p)
        return jax.tree.map(jnp.add, p, u), s

    @jax.jit
    def step_packed(p, s):
        u, s = tx.update(jax.grad(lambda p: loss(p.tree))(p), s, p)
        return jax.tree.map(jnp.add, p, u), s

    s, t = tx.init(plain), tx.init(packed)
    for _ in range(5):
        plain, s = step_plain(plain, s)
        packed, t = step_packed(packed, t)
    assert close(packed.tree, plain, 1e-5)
    unpacked = unpack_all(t)
    assert jax.tree.structure(unpacked) == jax.tree.structure(s)
    assert close(unpacked, s, 1e-5)
    again = pack_all(unpacked, plain)
    assert jax.tree.structure(again) == jax.tree.structure(t)
    assert len(jax.tree.leaves(t)) < len(jax.tree.leaves(s)) / 2


class Net(nn.Module):
    width: int
    depth: int = 0

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width, name="first")(x))
        for i in range(self.depth):
            x = nn.relu(nn.Dense(self.width, name=f"block_{i}")(x))
        return nn.Dense(2, name="last")(x)


@pytest.mark.parametrize(
    ("make", "big"),
    [
        (lambda: tt.named(clip=tt.clip_by_global_norm(1.0), adam=tt.adamw(1e-2)), Net(8, 2)),
        (
            lambda: tt.skip_nonfinite(tt.accumulate(tt.average_params(tt.adam(1e-2)), 2)),
            Net(7, 1),
        ),
    ],
)
def test_it_grows_as_its_tree_does(make, big):
    small, tx, x = Net(4, 1), make(), jnp.ones((8, 3))
    params = small.init(jax.random.key(0), x)["params"]

    def loss_fn(params, model_state, batch, rng, model=small):
        tree = params.tree if isinstance(params, Packed) else params
        error = model.apply({"params": tree}, batch) - 1.0
        return trainkit.Loss(jnp.sum(error**2), jnp.float32(len(batch)))

    batch = np.random.default_rng(0).normal(size=(8, 3)).astype("f4")
    grown = []
    for start in (params, Packed.pack(params)):
        step = trainkit.make_train_step(loss_fn, tx)
        state = step.place(trainkit.TrainState.create(start, tx))
        for _ in range(3):
            state, _ = step(state, batch)
        state = trainkit.growth.grow(state, small, big, x, tx=tx, key=3)
        wide = trainkit.make_train_step(partial(loss_fn, model=big), tx)
        state = wide.place(state)
        grown.append(state)
        for _ in range(2):
            state, _ = wide(state, batch)
        assert wide.compiles == 1
        grown.append(state)
    for plain, packed in zip(grown[:2], grown[2:], strict=True):
        assert isinstance(packed.params, Packed)
        # The structure is what a fresh packed state has: it can be restored, and grown again.
        fresh = jax.tree.structure(tx.init(packed.params))
        assert jax.tree.structure(packed.opt_state) == fresh
        assert close(unpack_all(packed.opt_state), plain.opt_state, 1e-5)
        assert close(packed.params.tree, plain.params, 1e-5)


def test_its_moments_grow_by_the_plan():
    small, big, tx, x = Net(4), Net(6), tt.adam(1e-2), jnp.ones((8, 3))
    params = small.init(jax.random.key(0), x)["params"]
    shapes = jax.eval_shape(big.init, jax.random.key(0), x)["params"]
    apply = lambda model: lambda p, x: model.apply({"params": p}, x)
    plan = trainkit.growth.plan(apply(small), apply(big), params, shapes, x)
    key = jax.random.key(1)
    wide = plan.grow(params, key=key)
    _, state = tx.update(params, tx.init(params), params)
    _, packed = tx.update(Packed.pack(params), tx.init(Packed.pack(params)), Packed.pack(params))
    expected = plan.realise(key).opt_state(tx, state, params, wide)
    packed_wide = plan.grow(Packed.pack(params), key=key)
    found = plan.realise(key).opt_state(tx, packed, Packed.pack(params), packed_wide)
    assert close(packed_wide.tree, wide, 0)
    assert jax.tree.structure(found) == jax.tree.structure(tx.init(Packed.pack(wide)))
    assert close(unpack_all(found), expected, 0)


def test_a_single_array_packs_without_its_scalars():
    tx, params = tt.adam(1e-2), jnp.ones((2, 3))
    _, state = tx.update(params, tx.init(params), params)
    packed = pack_all(state, params)
    assert jax.tree.structure(packed) == jax.tree.structure(tx.init(Packed.pack(params)))
    with pytest.raises(ValueError, match="structure"):
        pack_all(state, {"other": jnp.ones(1)})


def test_the_train_step_takes_it_whole():
    def loss_fn(params, model_state, batch, rng):
        p = params.tree
        error = batch[0] @ p["w"] + p["b"] - batch[1]
        return trainkit.Loss(jnp.sum(error**2), jnp.float32(len(batch[0])))

    rng = np.random.default_rng(0)
    batch = (rng.normal(size=(16, 4)).astype("f4"), rng.normal(size=(16, 3)).astype("f4"))
    tx = tt.adamw(1e-2)
    params = Packed.pack({"w": jnp.ones((4, 3)), "b": jnp.zeros(3)})
    ends = []
    for placement in ("single", "jit", "pmap"):
        step = trainkit.make_train_step(loss_fn, tx, placement=placement)
        state = step.place(trainkit.TrainState.create(params, tx))
        for _ in range(3):
            state, _ = step(state, batch)
        ends.append(jax.device_get(state.params))
    for other in ends[1:]:
        flat = np.asarray(other.buffers["float32"]).reshape(-1, 15)[0]
        assert np.allclose(flat, ends[0].buffers["float32"], atol=1e-5)


def test_sharded_leaves_keep_buffers_of_their_own():
    mesh = Mesh(np.array(jax.devices()), ("d",))
    rows = NamedSharding(mesh, PartitionSpec("d"))
    params = {"big": jax.device_put(jnp.ones((8, 4)), rows), "a": jnp.ones(3), "b": jnp.ones(2)}
    packed = Packed.pack(params)
    assert sorted(x.shape for x in packed.buffers.values()) == [(5,), (8, 4)]
    assert packed.tree["big"].sharding == rows
    assert close(jax.device_get(packed.tree), jax.device_get(params), 0)


def test_checkpoints_keep_it(tmp_path):
    from trainkit.loop.checkpoint import Checkpointer

    tx = tt.named(clip=tt.clip_by_global_norm(1.0), adam=tt.adamw(1e-2))
    packed = Packed.pack(tree())
    state = trainkit.TrainState.create(packed, tx)
    _, opt_state = tx.update(packed, state.opt_state, packed)
    state = state.replace(opt_state=opt_state)
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, state)
    back, _ = checkpoints.restore(like=trainkit.TrainState.create(packed, tx))
    checkpoints.close()
    assert isinstance(back.params, Packed)
    assert close(back.params, state.params, 0)
    assert close(back.opt_state, state.opt_state, 0)
    assert close(back.params.tree, tree(), 0)


def test_a_checkpoint_of_the_tree_comes_back(tmp_path):
    import flax.serialization

    tx = tt.adam(1e-2)
    packed = Packed.pack(tree())
    _, state = tx.update(packed, tx.init(packed), packed)
    data = flax.serialization.to_bytes(unpack_all(state))
    back = flax.serialization.from_bytes(unpack_all(tx.init(packed)), data)
    assert close(unpack_all(pack_all(back, tree())), unpack_all(state), 0)
