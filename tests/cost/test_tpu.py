"""Plans for TPU slices that are not here; only where the TPU compiler is installed."""

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit
from trainkit.cost import forecast

pytestmark = pytest.mark.tpu_plan
pytest.importorskip("libtpu", reason="pip install 'trainkit[tpu-plan]' brings the TPU compiler")

WIDTH, DEPTH = 1024, 4


def parts(placement, devices, batch_size):
    def loss_fn(params, model_state, batch, rng):
        for w in params.values():
            batch = jax.nn.relu(batch @ w.astype(jnp.bfloat16))
        return trainkit.Loss((batch.astype(jnp.float32) ** 2).sum(), len(batch))

    tx = optax.adam(1e-3)
    params = {f"w{i}": jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32) for i in range(DEPTH)}
    state = jax.eval_shape(lambda p: trainkit.TrainState.create(p, tx), params)
    step = trainkit.make_train_step(loss_fn, tx, placement=placement, devices=devices, donate=True)
    return step, state, jax.ShapeDtypeStruct((batch_size, WIDTH), jnp.bfloat16)


@pytest.fixture(autouse=True)
def fresh_compilations():
    """What was compiled for a chip that is not here cannot be read back from a cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.parametrize("topology", ["v5e:2x4", "v5e:8x8", "v5e:16x16"])
@pytest.mark.parametrize("placement", ["pmap", "jit", "fsdp"])
def test_a_slice(topology, placement):
    from jax.experimental import topologies

    devices = list(topologies.get_topology_desc(topology, platform="tpu").devices)
    found = forecast(*parts(placement, devices, 8 * len(devices)))
    state = 3 * 4 * DEPTH * WIDTH**2  # parameters and two moments
    share = state / len(devices) if placement == "fsdp" else state
    assert (found.devices, found.kind, found.fits) == (len(devices), "TPU v5 lite", True)
    assert share <= found.cost.argument_bytes <= 1.1 * share + 8 * WIDTH * 2 * 8
    assert set(found.least_seconds) == {"arithmetic", "memory", "network"}
    # Gradients are summed once: in float32 by pmap, in the bfloat16 of the products by the others.
    # FSDP gathers the parameters too (small shards as a sum of arrays padded with zeros).
    least = 2 * DEPTH * WIDTH**2 * (1 if placement == "jit" else 2)
    assert least <= sum(c.bytes for c in found.collectives) <= 2 * least
    # Forward, and the gradients of every matrix and of all inputs but the first.
    least = 2 * 8 * WIDTH**2 * (3 * DEPTH - 1)
    assert least <= found.flops <= 1.2 * least + 30 * share
