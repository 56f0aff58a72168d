"""What a step needs on other devices, and that its placement keeps what it promises."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit
from trainkit.cost import Chip, forecast, step_flops


def parts(placement, batch_size=64, **options):
    def loss_fn(params, model_state, batch, rng):
        hidden = jax.nn.relu(batch @ params["w"])
        return trainkit.Loss(((hidden @ params["v"]) ** 2).sum(), len(batch))

    tx = optax.adam(1e-3)
    params = {"w": jnp.ones((256, 512)), "v": jnp.ones((512, 128))}
    step = trainkit.make_train_step(loss_fn, tx, placement=placement, **options)
    state = jax.eval_shape(lambda: trainkit.TrainState.create(params, tx))
    return step, state, jax.ShapeDtypeStruct((batch_size, 256), jnp.float32)


PARAMS = 4 * (256 * 512 + 512 * 128)


@pytest.mark.parametrize("placement", ["pmap", "shard_map", "jit"])
def test_replicas_send_the_gradients_once(placement):
    found = forecast(*parts(placement))
    (reduced,) = found.collectives
    assert (reduced.kind, found.devices, found.examples) == ("all-reduce", 8, 64)
    assert PARAMS <= reduced.bytes <= PARAMS + 64  # with the loss
    assert found.cost.argument_bytes >= 3 * PARAMS


@pytest.mark.parametrize("batch_size", [8, 64, 1024])
def test_fsdp_gathers_parameters_and_never_the_batch(batch_size):
    """At no batch size: the partitioner, left to itself, gathers what is smaller."""
    found = forecast(*parts("fsdp", batch_size))
    kinds = {c.kind: c for c in found.collectives}
    # Each matrix at most once forward and once backward, and of the gradients one reduction.
    assert PARAMS <= kinds["all-gather"].bytes <= 2 * PARAMS
    assert sum(c.bytes for kind, c in kinds.items() if kind != "all-gather") <= PARAMS + 256
    assert found.cost.argument_bytes <= 3 * PARAMS / 8 + batch_size * 256 * 4 / 8 + 1024


def test_flops_are_those_of_one_device_with_all_steps_of_a_call():
    step, state, _ = parts("jit", steps_per_call=3)
    batch = jax.ShapeDtypeStruct((3, 64, 256), jnp.float32)
    found = forecast(step, state, batch)
    assert found.examples == 3 * 64
    assert found.flops == step_flops(step, state, batch) / 8
    # Forward, and the gradient of both matrices but not of the input.
    assert found.flops >= 3 * 2 * 8 * (2 * 256 * 512 + 3 * 512 * 128)


def test_bounds_are_those_of_the_data_sheet():
    found = forecast(*parts("jit"))
    assert found.chip is None
    assert found.least_seconds == {}
    assert found.fits is None
    assert "at least" not in str(found)
    chip = Chip(flops=1e9, memory=1e6, bandwidth=1e9, network=1e6)
    found = dataclasses.replace(found, chip=chip)
    assert found.least_seconds == {
        "arithmetic": found.flops / 1e9,
        "memory": found.cost.bytes_accessed / 1e9,
        "network": found.sent / 1e6,
    }
    assert found.fits is False
    assert "of 1 MB: TOO LARGE" in str(found)
    assert f"{1e3 * found.sent / 1e6:,.3g} ms (network)" in str(found)


def test_what_the_compiler_refuses_for_its_size_is_said_with_what_helps(monkeypatch):
    step, state, batch = parts("jit")

    def compile(*_):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (76.26G) exceeds available HBM (15.75G)."
        )

    monkeypatch.setattr(type(step), "compile", compile)
    with pytest.raises(MemoryError, match=r"jit on 8 × cpu .*76.26G.*fsdp"):
        forecast(step, state, batch)
