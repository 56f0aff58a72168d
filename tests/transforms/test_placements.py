"""A sample of the rules on 8 devices: the same parameters as alone, in every placement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit import Loss, TrainState, schedules

RULES = {
    "adamw in a chain with names": lambda: tt.named(
        clip=tt.clip_by_global_norm(0.5),
        adam=tt.adamw(schedules.warmup(1e-2, 3), weight_decay=0.1),
    ),
    "groups": lambda: tt.groups([("bias", tt.sgd(0.1, 0.9)), (".*", tt.muon(0.01))]),
    # On the axis of 4 only: 16 examples of rank 4 leave half of the other axis' basis to rounding.
    "soap": lambda: tt.soap(0.01, precondition_frequency=2, max_precond_dim=4),
    "accumulated and guarded": lambda: tt.skip_nonfinite(
        tt.accumulate(tt.average_params(tt.lion(0.01)), 2)
    ),
    "quantised": lambda: tt.quantise_moments(tt.adam(0.01), min_size=16),
    "langevin": lambda: tt.sgld(1e-3, num_data=10, prior=1.0),
    "adafactor": lambda: tt.adafactor(0.01, min_dim_size_to_factor=2),
}

# What another order of a sum over devices (1e-7 of a gradient) may come to. A code of 8 bits may
# become its neighbour; a basis of SOAP turns by the rounding over the gap between eigenvalues.
TOLERANCE = {"quantised": 2e-3, "soap": 1e-3}


def loss_fn(params, model_state, batch, rng):
    x, y = batch
    error = jnp.tanh(x @ params["kernel"] + params["bias"]) - y
    return Loss(jnp.sum(error**2), jnp.float32(x.shape[0]), model_state)


def batches():
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(16, 4)).astype("f4"), rng.normal(size=(16, 8)).astype("f4"))
        for _ in range(5)
    ]


def train(make, placement):
    tx = make()
    rng = np.random.default_rng(1)
    params = {"kernel": jnp.asarray(rng.normal(size=(4, 8)), jnp.float32), "bias": jnp.zeros(8)}
    step = trainkit.make_train_step(loss_fn, tx, placement=placement)
    state = step.place(TrainState.create(params, tx))
    for batch in batches():
        state, _ = step(state, batch)
    return state


@pytest.mark.parametrize("name", RULES)
def test_every_placement_trains_alike(name):
    alone = train(RULES[name], "single").params
    tolerance = TOLERANCE.get(name, 2e-5)
    for placement in ("pmap", "shard_map", "jit", "fsdp"):
        params = jax.device_get(train(RULES[name], placement).params)
        for key in alone:
            found = np.asarray(params[key])
            found = found.reshape(-1, *alone[key].shape)[0]
            assert np.abs(found - alone[key]).max() < tolerance, placement


def test_names_reach_a_live_state_in_every_placement():
    tx = tt.named(adam=tt.adam(1e-2))
    params = {"kernel": jnp.ones((4, 8)), "bias": jnp.zeros(8)}
    for placement in ("pmap", "shard_map", "jit", "fsdp"):
        step = trainkit.make_train_step(loss_fn, tx, placement=placement)
        state = step.place(TrainState.create(params, tx))
        first, second = batches()[:2]
        state, metrics = step(state, first)
        assert float(metrics["learning_rate"]) == pytest.approx(1e-2)
        state = tt.set(state, "learning_rate", 0.0)
        before = jax.device_get(state.params)
        state, metrics = step(state, second)
        assert float(tt.get(state, "learning_rate")) == 0.0
        assert float(metrics["learning_rate"]) == 0.0
        after = jax.device_get(state.params)
        assert np.array_equal(before["kernel"], after["kernel"])
