"""What a step needs on other devices, and that its placement keeps what it promises."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit
from trainkit.cost import Chip, forecast, largest_micro_batch, step_flops


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
    found = dataclasses.replace(found, chip=chip, memory=chip.memory)
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


def deep(microbatches, batch_size=512, placement="single"):
    """A step whose activations need far more than its parameters."""

    def loss_fn(params, model_state, batch, rng):
        for _ in range(8):
            batch = jnp.tanh(batch @ params["w"])
        return trainkit.Loss((batch**2).sum(), len(batch))

    tx = optax.sgd(0.1)
    step = trainkit.make_train_step(loss_fn, tx, placement=placement, microbatches=microbatches)
    state = jax.eval_shape(lambda: trainkit.TrainState.create({"w": jnp.ones((32, 32))}, tx))
    return step, state, jax.ShapeDtypeStruct((batch_size, 32), jnp.float32)


@pytest.mark.parametrize("placement", ["single", "shard_map"])
def test_the_largest_micro_batch_fits_and_the_next_larger_does_not(placement):
    make = lambda n: deep(n, placement=placement)
    local = 512 // make(1)[0].placement.parts
    needs = {n: forecast(*make(n)).cost.peak_bytes for n in (1, 2, 4, 8, 16, 32, 64)}
    assert needs[1] > needs[4] > needs[16]
    found = largest_micro_batch(make, memory=needs[4])
    fitting = [n for n in needs if needs[n] <= needs[4]]
    assert found.microbatches == min(fitting) == 4
    assert found.examples == local // 4
    assert found.forecast.cost.peak_bytes == needs[4]
    assert largest_micro_batch(make, memory=needs[1]).microbatches == 1
    assert largest_micro_batch(make, memory=1000) is None
    with pytest.raises(ValueError, match="memory of a cpu is not known"):
        largest_micro_batch(make)


def test_another_program_than_a_step_has_a_forecast():
    f = jax.jit(lambda x: x @ x)
    found = forecast(f, jax.ShapeDtypeStruct((64, 64), jnp.float32), memory=1e3)
    assert (found.devices, found.examples, found.flops) == (1, 0, 2 * 64**3)
    assert found.fits is False
    assert "of 1 kB: TOO LARGE" in str(found)
