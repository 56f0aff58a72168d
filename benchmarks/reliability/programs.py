"""The small programs that the trials disturb; they depend on everything in a checkpoint.

Each is a function `folder of the run -> result`. The result is compared bitwise with that of the
undisturbed run. It includes the log, but no times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from trainkit._core.identity import digest
from trainkit._core.kept_programs import keep_compiled
from trainkit._core.run_files import read_metrics
from trainkit.adapters.model import Model
from trainkit.data import Sampler
from trainkit.progressive import Stage, progressive, triggers

End = dict[str, Any]
STEPS = 40
# Columns with times, or that depend on times.
TIMES = {"seconds", "hook_seconds", "examples_per_second", "compile_seconds", "compiled_ahead"}
# The folder of the compilation cache, beside the folder of the run.
PROGRAMS = "programs"


def end(result: Any, out: Path) -> End:
    """The result of a run, as JSON values."""
    state = result.state.replace(rng=jax.random.key_data(result.state.rng))
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(out)]
    return {
        "state": [digest(leaf) for leaf in jax.tree.leaves(state)],
        "best": [result.best.step, result.best.value],
        "steps": result.steps,
        "rows": digest(json.dumps(rows)),
    }


def evaluate(state: Any) -> dict[str, float]:
    """The distance of the parameters from 1."""
    return {"loss": float(((state.params["w"] - 1) ** 2).mean())}


def fitted(out: Path, **options: Any) -> Any:
    """40 steps with a random key, moments, a schedule, shuffled data and an evaluation."""

    def loss_fn(params: Any, model_state: Any, batch: Any, rng: Any) -> Any:
        noise = 0.1 * jax.random.normal(rng, batch.shape)
        total = ((batch + noise - params["w"]) ** 2).sum()
        return trainkit.Loss(total, batch.shape[0], {"seen": model_state["seen"] + 1})

    tx = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))
    step = trainkit.make_train_step(loss_fn, tx, donate=True)
    params = {"w": jnp.zeros(64)}
    model_state = {"seen": jnp.zeros((), jnp.int32)}
    values = np.random.default_rng(0).normal(1, 0.1, size=(44, 64)).astype(np.float32)
    return trainkit.fit(
        step,
        trainkit.TrainState.create(params, tx, model_state=model_state, rng=7),
        Sampler(values, 8, seed=3),
        steps=STEPS,
        evaluate=evaluate,
        eval_every=10,
        checkpoint_every=7,
        log_every=3,
        out=out,
        **options,
    )


def plain(out: Path) -> End:
    """A run of one model, without a report."""
    return end(fitted(out, report=False), out)


def reported(out: Path) -> End:
    """The same run with a report."""
    result = fitted(out)
    report = out / "report.html"
    return {**end(result, out), "report": report.exists() and report.stat().st_size > 10_000}


def compiled(out: Path) -> End:
    """The same run with a compilation cache beside it."""
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled(out.parent / PROGRAMS)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return plain(out)


def build(width: int) -> Model:
    """A network with one hidden layer of this width."""

    def init(rng: Any, batch: Any) -> Any:
        one, other = jax.random.split(rng)
        inside = jax.random.normal(one, (6, width)) / 6**0.5
        return {"in": inside, "out": jax.random.normal(other, (width, 3)) / width**0.5}, {}

    def apply(params: Any, model_state: Any, inputs: Any, rng: Any, train: bool) -> Any:
        return jax.nn.relu(inputs @ params["in"]) @ params["out"], model_state

    loss = optax.softmax_cross_entropy_with_integer_labels
    return Model(init, apply, loss, lambda batch: batch["x"])


def growing(out: Path) -> End:
    """A progressive run with three widths, compiled ahead, with certificates."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(96, 6)).astype(np.float32)
    data = {"x": x, "label": np.argmax(x @ draw.normal(size=(6, 3)), axis=1).astype(np.int32)}
    result = progressive(
        [Stage(4, triggers.steps(10)), Stage(8, triggers.steps(10)), Stage(16)],
        build,
        optax.adam(1e-2),
        Sampler(data, 16, seed=1),
        [data],
        steps=30,
        warmup=4,
        eval_every=6,
        checkpoint_every=5,
        log_every=3,
        out=out,
        report=False,
    )
    # After a kill, a certificate may be computed on an initial state, with a warning: not compared.
    left_out = {*TIMES, "certificate"}
    history = [{k: v for k, v in event.items() if k not in left_out} for event in result.history]
    return {**end(result.fit, out), "history": digest(json.dumps(history))}


RUNS: Mapping[str, Callable[[Path], End]] = {
    "plain": plain,
    "reported": reported,
    "compiled": compiled,
    "growing": growing,
}
