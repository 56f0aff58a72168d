"""The run that the trials disturb, and what it ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

STEPS = 60
TIMES = {"seconds", "examples_per_second", "compile_seconds"}


def evaluate(state):
    """The distance of the parameters from 1."""
    return {"loss": float(((state.params["w"] - 1) ** 2).mean())}


def train(out: Path) -> None:
    """Trains, or goes on, and writes what it ends with into `end.json`."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import trainkit
    from trainkit._core.identity import digest
    from trainkit._core.run_files import read_metrics
    from trainkit.data import Sampler

    def loss_fn(params, model_state, batch, rng):
        noise = 0.1 * jax.random.normal(rng, batch.shape)
        total = ((batch + noise - params["w"]) ** 2).sum()
        return trainkit.Loss(total, batch.shape[0], {"seen": model_state["seen"] + 1})

    tx = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))
    step = trainkit.make_train_step(loss_fn, tx, donate=True)
    params = {"w": jnp.zeros(64)}
    model_state = {"seen": jnp.zeros((), jnp.int32)}
    values = np.random.default_rng(0).normal(1, 0.1, size=(44, 64)).astype(np.float32)
    result = trainkit.fit(
        step,
        trainkit.TrainState.create(params, tx, model_state=model_state, rng=7),
        Sampler(values, 8, seed=3),
        steps=STEPS,
        evaluate=evaluate,
        eval_every=10,
        checkpoint_every=7,
        log_every=3,
        out=out,
        report=False,
        progress=False,
    )
    state = result.state.replace(rng=jax.random.key_data(result.state.rng))
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(out)]
    end = {
        "state": [digest(leaf) for leaf in jax.tree.leaves(state)],
        "rows": digest(json.dumps(rows)),
        "best": [result.best.step, result.best.value],
        "steps": result.steps,
    }
    (out.parent / "end.json").write_text(json.dumps(end))


def child(out: Path, *extra: str, kill_after: float | None = None) -> subprocess.CompletedProcess:
    """Runs `train` in a process of its own; a time to be killed after counts as any kill."""
    command = [sys.executable, "-m", "benchmarks.reliability.aims", str(out), *extra]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=kill_after or 120
        )
    except subprocess.TimeoutExpired as late:
        if kill_after is None:
            return subprocess.CompletedProcess(command, 1, "", f"hangs: {late}")
        return subprocess.CompletedProcess(command, -signal.SIGKILL, "", "")


def end_of(out: Path) -> dict:
    file = out.parent / "end.json"
    return json.loads(file.read_text()) if file.exists() else {}


def verdict(out: Path, done: subprocess.CompletedProcess, expected: dict) -> str:
    """In a word or two, how a disturbed run ended."""
    if done.returncode == 0 and end_of(out) == expected:
        return "equal"
    if done.returncode == 0:
        return "SILENTLY WRONG"
    last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
    ours = any(word in last for word in ("CheckpointError", "DamagedError", "OutputError"))
    return f"refused: {last[:120]}" if ours else f"FAILED: {last[:120]}"
