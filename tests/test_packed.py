"""Packed state: the same numbers as the tree, through updates, growth of the tree and back."""

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


def test_it_grows_through_its_tree():
    tx = tt.adam(1e-2)
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    packed = Packed.pack(params)
    _, state = tx.update(packed, tx.init(packed), packed)
    wider = lambda t: jax.tree.map(lambda x: jnp.repeat(x, 2, axis=-1) if x.ndim else x, t)
    grown, grown_state = wider(unpack_all(packed)), wider(unpack_all(state))
    repacked = pack_all(grown_state, grown)
    updates, _ = tx.update(Packed.pack(grown), repacked, Packed.pack(grown))
    assert updates.tree["w"].shape == (2, 6)
    with pytest.raises(ValueError, match="structure"):
        pack_all(grown_state, {"other": jnp.ones(1)})


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


def test_a_checkpoint_of_the_tree_comes_back(tmp_path):
    import flax.serialization

    tx = tt.adam(1e-2)
    packed = Packed.pack(tree())
    _, state = tx.update(packed, tx.init(packed), packed)
    data = flax.serialization.to_bytes(unpack_all(state))
    back = flax.serialization.from_bytes(unpack_all(tx.init(packed)), data)
    assert close(unpack_all(pack_all(back, tree())), unpack_all(state), 0)
