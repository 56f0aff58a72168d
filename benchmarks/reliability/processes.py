"""Trials of runs in two processes: equal results, and clean ends. Prints a table.

    python benchmarks/reliability/processes.py             # all of them
    python benchmarks/reliability/processes.py pmap kill   # these

Each trial starts two processes with `trainkit launch` that train the small model of this file. It
compares their results bitwise with those of one process with two devices. Or it disturbs one of
them, and checks that both end within a minute with the right messages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLACEMENTS = ("single", "jit", "fsdp", "shard_map", "pmap", "explicit", "periodic")
STEPS = 24
LIMIT = 60.0  # seconds within which the death of one process must end the other
PATIENCE = 420.0  # seconds for a whole trial, on a busy machine
TIMES = {"seconds", "examples_per_second", "compile_seconds"}


# -- the program under test ------------------------------------------------------------------------


def placement_of(name: str, devices: int | None = None) -> Any:
    """A placement by its name in this file, on `devices` devices or all."""
    import jax

    from trainkit.placement import fsdp, resolve

    if name == "single":
        return resolve(name)
    if name == "fsdp":
        return fsdp(devices, min_size=8)
    if name == "explicit":
        chosen = jax.devices()[:devices]
        axes = (jax.sharding.AxisType.Explicit,)
        return jax.make_mesh((len(chosen),), ("data",), axis_types=axes, devices=chosen)
    return resolve(name, devices)


def whole(tree: Any) -> list[str]:
    """The digest of each leaf, also of leaves that are sharded over processes."""
    import jax
    import numpy as np

    from trainkit._core.identity import digest
    from trainkit.placement.shares import on_own_device

    leaves = jax.tree.leaves(on_own_device(tree))
    keys = [jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
    data = [jax.random.key_data(x) if key else x for x, key in zip(leaves, keys, strict=True)]
    return [digest(np.asarray(x)) for x in data]


def values(size: int = 44) -> Any:
    """The data set."""
    import numpy as np

    return np.random.default_rng(0).normal(1, 0.1, size=(size, 64)).astype(np.float32)


def parts_of_run(options: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """The step, the state, the data and the evaluation of the run."""
    import jax
    import jax.numpy as jnp
    import optax

    import trainkit
    import trainkit.transforms as tt
    from trainkit.data import Sampler

    def loss_fn(params, model_state, batch, rng):
        noise = 0.1 * jax.random.normal(rng, batch.shape)
        total = ((batch + noise - params["w"]) ** 2).sum()
        return trainkit.Loss(total, batch.shape[0], {"seen": model_state["seen"] + 1})

    def distance(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["w"]) ** 2).sum(), batch.shape[0])

    tx = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))
    where = placement_of(options.placement, options.devices)
    if options.placement == "periodic":
        tx = tt.lookahead(tx, 3, outer=tt.nesterov(0.7, 0.9))
    step = trainkit.make_train_step(
        loss_fn, tx, placement=where, donate=True,
        steps_per_call=3 if options.placement == "periodic" else 1,
    )  # fmt: skip
    state = trainkit.TrainState.create(
        {"w": jnp.zeros(64)}, tx, model_state={"seen": jnp.zeros((), jnp.int32)}, rng=7
    )
    mine = options.here
    content = values(40 if options.trouble == "sizes" and mine else 44)
    if options.trouble == "nan":
        content[3] = float("nan")
    data = Sampler(content, 8, seed=3)
    if options.trouble == "early":
        # Increasing, so that early stopping ends the run.
        data = Sampler(content + 3.0, 8, seed=3)
    held = [values()[:40], values()[40:43]]  # the second has an odd size
    evaluation = trainkit.make_eval_step(distance, placement=where)
    return step, state, data, lambda state: evaluation.over(state, held)


def disturb(trouble: str, here: bool) -> Callable[[Any], Any]:
    """A hook that disturbs this process, if it is the chosen one."""
    import trainkit

    def hook(now):
        if trouble == "slow" or (here and trouble in ("kill", "term")):
            time.sleep(0.05)
        if not here or now.steps != 9:
            return None
        if trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if trouble == "raise":
            raise RuntimeError("what went wrong here")
        if trouble == "stop":
            return trainkit.Change(stop="one hook of one process")
        return None

    return hook


def train(options: argparse.Namespace) -> None:
    """Trains or resumes, and writes the result."""
    import trainkit
    from trainkit._core.run_files import read_metrics

    step, state, data, evaluate = parts_of_run(options)
    early = trainkit.EarlyStopping("loss", patience=2) if options.trouble == "early" else None
    result = trainkit.fit(
        step,
        state,
        data,
        steps=options.steps,
        evaluate=evaluate,
        eval_every=6,
        early_stopping=early,
        checkpoint_every=5,
        log_every=3,
        hooks=[disturb(options.trouble, options.here)] if options.trouble else [],
        out=options.folder / "run",
        report=False,
    )
    digests = whole(result.state)
    if options.first:
        rows = read_metrics(options.folder / "run")
        write_end(
            options.folder,
            state=digests,
            rows=[{k: v for k, v in row.items() if k not in TIMES} for row in rows],
            best=[result.best.step, result.best.value],
            steps=result.steps,
            stopped=result.stopped,
        )


def several(options: argparse.Namespace) -> None:
    """Three calls and an evaluation in every placement; writes the results."""
    import numpy as np

    from trainkit.data.stacked import Stacked

    found = {}
    for name in PLACEMENTS:
        options.placement = name
        step, state, data, evaluate = parts_of_run(options)
        state = step.place(state)
        batches = Stacked(data, step.steps_per_call)
        for _ in range(3):
            state, metrics = step(state, next(batches)[0])
        found[name] = [whole(state), np.asarray(metrics["loss"]).tolist(), evaluate(state)]
    if options.first:
        write_end(options.folder, **found)


def grow(options: argparse.Namespace) -> None:
    """A run that grows once, by the choice of a probe."""
    import flax.linen as nn
    import numpy as np
    import optax

    import trainkit
    from trainkit.data import Sampler
    from trainkit.progressive import Probe, Stage, progressive, triggers

    class MLP(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.relu(nn.Dense(self.width)(x)))

    rng = np.random.default_rng(0)
    data = {
        "x": rng.normal(size=(48, 4)).astype(np.float32),
        "label": rng.integers(0, 3, 48).astype(np.int32),
    }
    losses = optax.softmax_cross_entropy_with_integer_labels
    result = progressive(
        [Stage(MLP(8), until=triggers.steps(6)), Stage(MLP(16))],
        lambda module: trainkit.from_linen(module, losses, inputs=lambda batch: batch["x"]),
        optax.adam(1e-2),
        Sampler(data, 8, seed=1),
        [{name: leaf[at : at + 16] for name, leaf in data.items()} for at in (0, 16, 32)],
        steps=options.steps,
        probe=Probe(steps=2, batches=2, errors=0.0) if options.trouble == "probe" else None,
        placement=placement_of(options.placement, options.devices),
        eval_every=4,
        checkpoint_every=4,
        log_every=2,
        hooks=[disturb(options.trouble, options.here)] if options.trouble == "term" else [],
        out=options.folder / "run",
        report=False,
    )
    digests = whole(result.state)
    events = [(event["event"], event["step"]) for event in result.history]
    grown = [e["certificate"] for e in result.history if e["event"] == "growth"]
    assert all("forward_error" in certificate for certificate in grown), grown
    if options.first:
        write_end(
            options.folder, state=digests, events=events, flops=result.ledger.to_json(),
            evaluation=dict(result.evaluation),
        )  # fmt: skip


def write_end(folder: Path, **content: Any) -> None:
    """Writes the result of a run."""
    (folder / "end.json").write_text(json.dumps(content))


def child(arguments: Sequence[str]) -> None:
    """One process of a trial."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("train", "several", "grow"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--placement", default="jit")
    parser.add_argument("--trouble", default="")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--at", type=int, default=1, help="the process that the trouble is in")
    options = parser.parse_args(arguments)

    import jax

    import trainkit

    trainkit.distributed.initialize()
    options.first, options.here = jax.process_index() == 0, jax.process_index() == options.at
    options.folder.mkdir(parents=True, exist_ok=True)
    {"train": train, "several": several, "grow": grow}[options.what](options)


# -- starting it -----------------------------------------------------------------------------------


def environment(devices: int) -> dict[str, str]:
    """The environment variables for a process with this number of simulated devices."""
    flag = "--xla_force_host_platform_device_count"
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(flag)]
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"{flag}={devices}"]),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def program(what: str, folder: Path, *extra: str) -> list[str]:
    """The command line of one process."""
    folder.mkdir(parents=True, exist_ok=True)
    return [sys.executable, __file__, "--child", what, str(folder), *extra]


def one(what: str, folder: Path, *extra: str, devices: int = 2) -> dict[str, Any]:
    """The result of a run in one process."""
    done = subprocess.run(
        program(what, folder, *extra),
        env=environment(devices), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"one process alone failed: {done.stderr[-800:]}")
    return json.loads((folder / "end.json").read_text())


def launch(command: Sequence[str], count: int = 2) -> subprocess.Popen[str]:
    """Starts the command in two processes."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainkit", "launch", "-n", str(count), "--", *command],
        env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


class Ended(Exception):
    """A launched run ended in an unexpected way."""


def finish(
    process: subprocess.Popen[str], status: int = 0, *words: str, limit: float = PATIENCE
) -> str:
    """Waits for a process; its output, which must have this status and these words."""
    try:
        text, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            text, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
        raise Ended(f"hangs for {limit:g} s: {text[-800:]}") from None
    if process.returncode != status:
        raise Ended(f"status {process.returncode}, not {status}: {text[-1500:]}")
    if missing := [word for word in words if word not in text]:
        raise Ended(f"no word of {missing[0]!r}: {text[-800:]}")
    return text


def two(what: str, folder: Path, *extra: str) -> dict[str, Any]:
    """The result of a run in two processes."""
    finish(launch(program(what, folder, *extra)))
    return json.loads((folder / "end.json").read_text())


def compared(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Whether two results are equal, or their differences."""
    different = [name for name in expected if found.get(name) != expected[name]]
    if not different:
        return "equal"
    here, there = (str(end.get(different[0]))[:200] for end in (found, expected))
    return f"{', '.join(different)} differ: {here} | {there}"


def guarded(trial: Callable[[Path], str]) -> Callable[[Path], str]:
    """The trial, with an unexpected end as its outcome."""

    def run(folder: Path) -> str:
        try:
            return trial(folder)
        except (Ended, RuntimeError, OSError, subprocess.SubprocessError) as error:
            return str(error)

    return run


# -- the trials ------------------------------------------------------------------------------------


def same_as_one(what: str, placement: str, *extra: str, devices: int = 2) -> Callable[[Path], str]:
    """A trial that compares a run in two processes with the run in one."""

    def trial(folder: Path) -> str:
        arguments = ("--placement", placement, *extra)
        expected = one(what, folder / "one", *arguments, devices=devices)
        return compared(two(what, folder / "two", *arguments), expected)

    return guarded(trial)


def resumes(first: str, then: str, placement: str = "fsdp") -> Callable[[Path], str]:
    """A trial of a run that resumes with another number of processes."""
    how = {"one": one, "two": two}

    def trial(folder: Path) -> str:
        one("train", folder / "whole", "--placement", placement, "--steps", "11")
        expected = one("train", folder / "whole", "--placement", placement)
        how[first]("train", folder / "run", "--placement", placement, "--steps", "11")
        found = how[then]("train", folder / "run", "--placement", placement)
        return compared(found, expected)

    return guarded(trial)


def stopped(
    trouble: str, signal_to: str, status: int, *words: str, what: str = "train"
) -> Callable[[Path], str]:
    """A trial in which one process is stopped: both must end, and resume exactly."""

    def trial(folder: Path) -> str:
        process = launch(program(what, folder / "run", "--trouble", trouble))
        lines = []
        if signal_to == "launcher":
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if "evaluation" in line:
                    process.send_signal(signal.SIGTERM)
                    break
        finish(process, status, *words)
        found = two(what, folder / "run")
        return compared(found, one(what, folder / "one"))

    return guarded(trial)


def death(trouble: str, at: int, status: int, *words: str) -> Callable[[Path], str]:
    """A trial in which one process dies: measures when the other ends, and checks the messages."""

    def trial(folder: Path) -> str:
        process = launch(program("train", folder / "run", "--trouble", trouble, "--at", str(at)))
        assert process.stdout is not None
        text, died = "", None
        for line in process.stdout:
            text += line
            if died is None and "the others end too" in line:
                died = time.monotonic()
        process.wait()
        if process.returncode != status:
            return f"status {process.returncode}, not {status}: {text[-1500:]}"
        if died is None or (took := time.monotonic() - died) > LIMIT:
            return f"ended after {'?' if died is None else round(took)} s: {text[-800:]}"
        if missing := [word for word in words if word not in text]:
            return f"no word of {missing[0]!r}: {text[-1500:]}"
        return compared(two("train", folder / "run"), one("train", folder / "one"))

    return guarded(trial)


def early(folder: Path) -> str:
    """Early stopping ends both at the same step, with the best state."""
    return same_as_one("train", "jit", "--trouble", "early")(folder)


def stop_of_one(folder: Path) -> str:
    """A hook in one process ends the run in both at the same step."""
    found = two("train", folder / "run", "--trouble", "stop")
    if found["steps"] != 9 or found["stopped"] != "one hook of one process":
        return f"{found['stopped']} at step {found['steps']}"
    return compared(two("train", folder / "run"), one("train", folder / "one"))


def sizes(folder: Path) -> str:
    """Processes with data of different sizes are refused before anything is written."""
    process = launch(program("train", folder / "run", "--trouble", "sizes"))
    finish(process, 1, "data.size is 44 in process 0, but 40 in process 1")
    return "clean" if not (folder / "run" / "run").exists() else "a folder was written"


def locked(folder: Path) -> str:
    """A folder that another run uses is refused in all processes."""
    from trainkit.loop.run_folder import RunFolder

    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder.claim(folder / "run"):
        finish(launch(program("train", folder)), 1, "Another process is training in")
    return "clean"


def not_finite(folder: Path) -> str:
    """A NaN ends the run in both at the same step, and keeps the last good state."""
    return same_as_one("train", "jit", "--trouble", "nan")(folder)


def damaged(folder: Path) -> str:
    """A flipped bit in a file of one process: both resume from the checkpoint before."""
    expected = one("train", folder / "one", "--placement", "fsdp")
    one("train", folder / "run", "--placement", "fsdp", "--steps", "11")
    newest = max((folder / "run/run/checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    file = max((newest / "state").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    command = program("train", folder / "run", "--placement", "fsdp")
    finish(launch(command), 0, "is damaged", "is used instead")
    return compared(json.loads((folder / "run/end.json").read_text()), expected)


SCENARIOS: dict[str, Callable[[Path], str]] = {
    # Each process computes the whole step on its own device.
    "single": same_as_one("train", "single", devices=1),
    "jit": same_as_one("train", "jit"),
    "fsdp": same_as_one("train", "fsdp"),
    "shard_map": same_as_one("train", "shard_map"),
    "pmap": same_as_one("train", "pmap"),
    "periodic": same_as_one("train", "periodic"),
    "explicit mesh": same_as_one("train", "explicit"),
    "progressive": same_as_one("grow", "jit"),
    "progressive, fsdp, probe": same_as_one("grow", "fsdp", "--trouble", "probe"),
    "progressive, SIGTERM": stopped("term", "one", 143, "interrupted by SIGTERM", what="grow"),
    "two go on": resumes("two", "two"),
    "one goes on from two": resumes("two", "one"),
    "two go on from one": resumes("one", "two"),
    "kill": death("kill", 1, 137, "Process 1 of 2 was ended by SIGKILL"),
    "kill of the first": death("kill", 0, 137, "Process 0 of 2 was ended by SIGKILL"),
    "exception": death("raise", 1, 1, "what went wrong here", "Process 1 of 2 ends by this error"),
    "SIGTERM of one": stopped("term", "one", 143, "interrupted by SIGTERM"),
    "SIGTERM of the launcher": stopped("slow", "launcher", 143, "interrupted by SIGTERM"),
    "early stop": guarded(early),
    "a hook of one stops": guarded(stop_of_one),
    "different data": guarded(sizes),
    "lock taken": guarded(locked),
    "NaN": guarded(not_finite),
    "damaged checkpoint": guarded(damaged),
}


def main(arguments: Sequence[str]) -> int:
    """Runs the trials and prints a table; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    wrong, chosen = 0, parser.parse_args(arguments).names or list(SCENARIOS)
    print("| trial | outcome | seconds |\n|---|---|---:|")
    for name in chosen:
        folder, begin = Path(tempfile.mkdtemp(prefix="trainkit-processes-")), time.monotonic()
        outcome = SCENARIOS[name](folder)
        shutil.rmtree(folder, ignore_errors=True)
        wrong += outcome not in ("equal", "clean")
        print(f"| {name} | {outcome} | {time.monotonic() - begin:.0f} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))
