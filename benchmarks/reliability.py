"""What a run survives: kills, damaged checkpoints, full disks. Counts, and a table of them.

    python -m benchmarks.reliability --kills 200 --aimed 60 --corruptions 400
    python -m benchmarks.reliability --kills 2 --aimed 2 --corruptions 8     # a minute

Every trial runs the small program of this file, which depends on all that a checkpoint holds (a
key, moments, the order of the data, an evaluation, early stopping), and compares what it ends with,
bit for bit, to what the undisturbed run ends with: the state, the log and the best evaluation.

  kills         SIGKILL at a random instant, again and again until the run ends
  aimed         SIGKILL inside a function: while a step is written, moved away or deleted, while the
                run is evaluated, while a row or a file of the run is written
  corruptions   of a checkpoint of a stopped run: cut, flipped, emptied, deleted, swapped, renamed,
                made of another step, without permission; then the run goes on

What has been tried is kept in a file (`--results`), so that the measure can be stopped and go on.
`--table` prints only the table of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

STEPS = 60
# Where an aimed kill strikes: a function of ours or of Orbax, at one of its calls.
AIMS = {
    "writing the info of a step": ("trainkit.loop.saved.info", "write_info"),
    "copying a state to save": ("trainkit.loop.checkpoint", "on_host"),
    "moving a step away": ("os", "replace"),
    "deleting a step": ("shutil", "rmtree"),
    "finishing a step": ("os", "rename"),
    "evaluating": ("benchmarks.reliability", "evaluate"),
    "writing a row": ("trainkit.loop.metrics_log.MetricsLog", "_append"),
    "noting that it has saved": ("trainkit.loop.run_folder.RunFolder", "saved"),
    "writing a file whole": ("trainkit._core.run_files", "open_new"),
}
TIMES = {"seconds", "examples_per_second", "compile_seconds"}


# -- the run ---------------------------------------------------------------------------------------


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


def aim(where: str, call: int) -> None:
    """Has this process killed inside the `call`-th call of a function."""
    import importlib

    home, name = AIMS[where]
    import trainkit.loop.checkpoint
    import trainkit.loop.saved.info_handler

    try:
        owner = importlib.import_module(home)
    except ModuleNotFoundError:
        module, _, inside = home.rpartition(".")
        owner = getattr(importlib.import_module(module), inside)
    if home == "benchmarks.reliability":
        owner = sys.modules["__main__"]
    whole, calls = getattr(owner, name), [0]

    def struck(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            if name == "rmtree":  # half way: a file of it is gone
                for file in list(Path(args[0]).rglob("*"))[:3]:
                    if file.is_file():
                        file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args, **kwargs)

    setattr(owner, name, struck)
    # What was imported by name.
    for module in (trainkit.loop.checkpoint, trainkit.loop.saved.info_handler):
        if getattr(module, name, None) is whole:
            setattr(module, name, struck)


def child(out: Path, *extra: str, kill_after: float | None = None) -> subprocess.CompletedProcess:
    """Runs `train` in a process of its own; a time to be killed after counts as any kill."""
    command = [sys.executable, "-m", "benchmarks.reliability", "--train", str(out), *extra]
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


# -- the trials ------------------------------------------------------------------------------------


def killed(seed: int, folder: Path, expected: dict) -> tuple[str, str]:
    """Killed at random instants, of those in which it trains, until it ends."""
    draw, out = random.Random(seed), folder / "run"
    for _ in range(draw.randrange(1, 4)):
        if child(out, kill_after=draw.uniform(1.5, 6.0)).returncode == 0:
            break
    return "at a random instant", verdict(out, child(out), expected)


def aimed(seed: int, folder: Path, expected: dict) -> tuple[str, str]:
    draw, out = random.Random(seed), folder / "run"
    where = list(AIMS)[seed % len(AIMS)]
    ends = [child(out, "--aim", where, "--call", str(draw.randrange(1, 5))) for _ in range(2)]
    struck = any(end.returncode == -signal.SIGKILL for end in ends)
    return where if struck else f"{where}: missed", verdict(out, child(out), expected)


def files(step: Path) -> list[Path]:
    return sorted(file for file in step.rglob("*") if file.is_file())


def flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes()) or bytearray(b"x")
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b), other.write_bytes(a)


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside), other.rename(one), aside.rename(other)


DAMAGE = {
    "a bit flipped": lambda step, old, draw: flip(draw.choice(files(step)), draw),
    "a bit flipped in the largest file": lambda step, old, draw: flip(
        max(files(step), key=lambda f: f.stat().st_size), draw
    ),
    "a file cut": lambda step, old, draw: (
        os.truncate(f := draw.choice(files(step)), draw.randrange(f.stat().st_size + 1))
    ),
    "a file emptied": lambda step, old, draw: draw.choice(files(step)).write_bytes(b""),
    "a file deleted": lambda step, old, draw: draw.choice(files(step)).unlink(),
    "a part deleted": lambda step, old, draw: shutil.rmtree(
        step / draw.choice(["state", "info"])
    ),
    "emptied": lambda step, old, draw: [shutil.rmtree(step), step.mkdir()],
    "deleted": lambda step, old, draw: shutil.rmtree(step),
    "two files swapped": lambda step, old, draw: swap(*draw.sample(files(step), 2)),
    "swapped with an older step": lambda step, old, draw: exchange(step, old),
    "the arrays of an older step": lambda step, old, draw: exchange(step / "state", old / "state"),
    "under a later name": lambda step, old, draw: step.rename(step.with_name("58")),
    "half written": lambda step, old, draw: step.rename(
        step.with_name(f"{step.name}.orbax-checkpoint-tmp")
    ),
    "the older step damaged too": lambda step, old, draw: [
        flip(draw.choice(files(step)), draw), flip(draw.choice(files(old)), draw)
    ],
}  # fmt: skip


def corrupted(seed: int, folder: Path, expected: dict) -> tuple[str, str]:
    """The checkpoints of a run that was stopped, damaged; each run is stopped at step 50."""
    draw, out = random.Random(seed), folder / "run"
    shutil.copytree(folder.parent / "stopped" / "run", out)
    steps = sorted((int(f.name), f) for f in (out / "checkpoints").iterdir() if f.name.isdigit())
    (_, old), (_, step) = steps[-2:]
    damage = list(DAMAGE)[seed % len(DAMAGE)]
    DAMAGE[damage](step, old, draw)
    return damage, verdict(out, child(out), expected)


TRIALS = {"kills": killed, "aimed": aimed, "corruptions": corrupted}


def table(results: Path) -> str:
    """What has been tried, as Markdown."""
    found: dict[tuple[str, str], Counter] = {}
    for line in results.read_text().splitlines() if results.exists() else []:
        row = json.loads(line)
        kind = row["verdict"].split(":")[0]
        found.setdefault((row["trial"], row["what"]), Counter())[kind] += 1
    lines = ["| trial | what | tried | equal | refused | failed | silently wrong |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for (trial, what), count in sorted(found.items()):
        counts = [count[kind] for kind in ("equal", "refused", "FAILED", "SILENTLY WRONG")]
        numbers = " | ".join(map(str, [sum(count.values()), *counts]))
        lines.append(f"| {trial} | {what} | {numbers} |")
    return "\n".join(lines)


def measure(counts: dict[str, int], results: Path) -> None:
    """Makes those trials that are not in the results yet."""
    done = set()
    if results.exists():
        rows = map(json.loads, results.read_text().splitlines())
        done = {(row["trial"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        child(base / "undisturbed" / "run")
        expected = end_of(base / "undisturbed" / "run")
        assert expected.get("steps") == STEPS, "the undisturbed run does not end"
        child(base / "stopped" / "run", "--aim", "writing a row", "--call", "24")
        for trial, count in counts.items():
            for seed in range(count):
                if (trial, seed) in done:
                    continue
                folder = base / f"{trial}-{seed}"
                folder.mkdir()
                what, found = TRIALS[trial](seed, folder, expected)
                row = {"trial": trial, "seed": seed, "what": what, "verdict": found}
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if found != "equal":
                    print(row, flush=True)
                shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for trial in TRIALS:
        parser.add_argument(f"--{trial}", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("reliability.jsonl"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--aim", choices=list(AIMS))
    parser.add_argument("--call", type=int, default=1)
    options = parser.parse_args()
    if options.train is not None:
        if options.aim:
            aim(options.aim, options.call)
        train(options.train)
        return
    if not options.table:
        measure({trial: getattr(options, trial) for trial in TRIALS}, options.results)
    print(table(options.results))


if __name__ == "__main__":
    main()
