"""Layouts by rules and by size, meshes of one's own, and their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import trainkit
from trainkit.placement import BySize, Rules, Sharded, ShardMap, fsdp

TX = optax.adam(1e-2)
PARAMS = {
    "dense": {"kernel": jnp.linspace(-1, 1, 128).reshape(8, 16), "bias": jnp.ones(16)},
    "out": {"kernel": jnp.linspace(1, -1, 64).reshape(16, 4)},
}
BATCH = {"x": np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)}


def loss_fn(params, model_state, batch, rng):
    hidden = jnp.tanh(batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"])
    out = hidden @ params["out"]["kernel"]
    return trainkit.Loss((out**2).sum(), len(out))


def state():
    return trainkit.TrainState.create(PARAMS, TX)


def run(placement, steps=3, **options):
    step = trainkit.make_train_step(loss_fn, TX, placement=placement, **options)
    end = step.place(state())
    for _ in range(steps):
        end, _ = step(end, BATCH)
    assert step.compiles == 1
    return end


def specs(tree):
    return jax.tree.map(lambda x: tuple(x.sharding.spec), tree)


def grid():
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))


RULES = [
    ("dense/kernel", PartitionSpec(None, "model")),
    ("bias", PartitionSpec("model")),
    ("out/.*", PartitionSpec("model", None)),
]


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize(
    "layout",
    [None, BySize(min_size=16), BySize(min_size=16, axes=("data",)), Rules(tuple(RULES))],
    ids=["replicated", "size", "size-data", "rules"],
)
def test_a_mesh_of_ones_own_takes_the_same_steps(layout, microbatches):
    want = run("single", microbatches=microbatches)
    end = run(Sharded(grid(), layout=layout), microbatches=microbatches)
    for a, b in zip(jax.tree.leaves(end.params), jax.tree.leaves(want.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


def test_rules_lay_out_parameters_and_the_moments_that_follow_them():
    end = run(Sharded(grid(), layout=Rules(tuple(RULES))), steps=1)
    want = {
        "dense": {"kernel": (None, "model"), "bias": ("model",)},
        "out": {"kernel": ("model", None)},
    }
    assert specs(end.params) == want
    assert specs(end.opt_state[0].mu) == want
    assert specs(end.opt_state[0].nu) == want
    assert end.step.sharding.is_fully_replicated


def test_by_size_cuts_the_longest_axis_that_divides_evenly():
    end = run(fsdp(min_size=16), steps=1)
    assert specs(end.params) == {
        "dense": {"kernel": (None, "data"), "bias": ("data",)},
        "out": {"kernel": ("data",)},
    }
    small = run(fsdp(min_size=17), steps=1)
    assert small.params["dense"]["bias"].sharding.is_fully_replicated


def test_a_bare_mesh_is_a_placement():
    end = run(Mesh(np.array(jax.devices()[:4]), ("batch",)))
    assert len(end.params["out"]["kernel"].sharding.device_set) == 4
    assert end.params["out"]["kernel"].sharding.is_fully_replicated


def test_shard_map_over_some_axes_of_a_mesh():
    want = run("single")
    end = run(ShardMap(grid(), batch_axes=("data",)))
    np.testing.assert_allclose(
        end.params["out"]["kernel"], want.params["out"]["kernel"], rtol=2e-6, atol=1e-6
    )


def test_rules_must_cover_every_parameter():
    step = trainkit.make_train_step(
        loss_fn, TX, placement=fsdp(rules=[("kernel", PartitionSpec("data"))])
    )
    with pytest.raises(ValueError, match=r"no rule covers.*dense/bias \(16,\).*'\.\*'"):
        step.place(state())
    assert run(fsdp(rules=[("dense", PartitionSpec()), ("", PartitionSpec("data"))])) is not None


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (PartitionSpec(None, "data"), r"out/kernel has shape \(16, 4\): its axis 1"),
        (PartitionSpec("model"), r"names the mesh axis 'model'"),
        (PartitionSpec(None, None, "data"), r"names 3 axes, but out/kernel"),
    ],
)
def test_a_rule_that_cannot_hold(spec, match):
    rules = [("out", spec), (".*", PartitionSpec())]
    step = trainkit.make_train_step(loss_fn, TX, placement=fsdp(rules=rules))
    with pytest.raises(ValueError, match=match):
        step.place(state())


def test_an_axis_that_the_mesh_lacks():
    with pytest.raises(ValueError, match=r"batch axis 'batch' .*\('data', 'model'\)"):
        Sharded(grid(), batch_axes="batch")


def test_a_growing_state_is_laid_out_anew():
    step = trainkit.make_train_step(loss_fn, TX, placement=fsdp(min_size=16))
    first, _ = step(step.place(state()), BATCH)
    wide = {
        "dense": {"kernel": jnp.ones((8, 32)) * 0.1, "bias": jnp.ones(32)},
        "out": {"kernel": jnp.ones((32, 4))},
    }
    grown = step.place(first.replace(params=wide, opt_state=TX.init(wide)))
    for _ in range(2):
        grown, _ = step(grown, BATCH)
        first, _ = step(first, BATCH)
    assert step.compiles == 2
    assert int(grown.step) == 3
