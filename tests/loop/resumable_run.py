"""A small run that depends on everything a checkpoint must hold; it can be told to die.

The loss draws from the step's key, so that a key that was lost shows; the optimizer has moments
and counts; the data is shuffled and its epochs are not a multiple of anything else.

    python tests/loop/resumable_run.py OUT PLACEMENT STEP SIGNAL
"""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from trainkit.data import Sampler

STEPS = 60
DATA = {
    "x": np.random.default_rng(0).normal(size=(88, 4)).astype(np.float32),
    "y": np.random.default_rng(1).normal(size=(88,)).astype(np.float32),
}


def loss_fn(params, model_state, batch, rng):
    hidden = jax.nn.relu(batch["x"] @ params["w"] + params["b"])
    hidden = hidden * jax.random.bernoulli(rng, 0.8, hidden.shape).astype(hidden.dtype)
    error = hidden @ params["v"] - batch["y"]
    count = model_state["count"] + 1
    return trainkit.Loss((error**2).sum(), error.shape[0], {"count": count})


def run(out, placement="single", kill=None, signal_number=signal.SIGKILL, **options):
    """Trains; with `kill` the process gets the signal right after that step's checkpoint."""
    rng = np.random.default_rng(2)
    params = {
        "w": jnp.asarray(rng.normal(size=(4, 16)), jnp.float32),
        "b": jnp.zeros(16),
        "v": jnp.asarray(rng.normal(size=16), jnp.float32),
    }
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))
    step = trainkit.make_train_step(loss_fn, tx, placement=placement, donate=True)
    state = trainkit.TrainState.create(
        params, tx, model_state={"count": jnp.zeros((), jnp.float32)}, rng=3
    )

    def evaluate(state):
        error = jax.nn.relu(DATA["x"] @ state.params["w"]) @ state.params["v"] - DATA["y"]
        return {"loss": (error**2).mean()}

    def dies(now):
        if now.steps == kill:
            os.kill(os.getpid(), signal_number)

    arguments = {
        "steps": STEPS,
        "evaluate": evaluate,
        "eval_every": 10,
        "checkpoint_every": 7,
        "log_every": 3,
        "hooks": [dies],
        "out": out,
        "config": {"placement": placement},
        "progress": False,
        "report": False,
    }
    return trainkit.fit(step, state, Sampler(DATA, 16, seed=5), **(arguments | options))


if __name__ == "__main__":
    out, placement, kill, name = sys.argv[1:]
    run(Path(out), placement, int(kill), getattr(signal, name))
    print("went on")
