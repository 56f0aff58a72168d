"""The environment of the other libraries: build/peers, made when it is first needed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "peers"
# What pip is asked for. JAX is the one that trainkit runs on.
NEEDS = {"torch": ["torch==2.13.0", "numpy"], "keras": ["keras==3.15.1"]}


class Missing(Exception):
    """A peer cannot be had; the message says why."""


def needs(peer: str) -> list[str]:
    """The requirements of a peer."""
    if peer != "keras":
        return NEEDS[peer]
    found = {x.name.lower() for x in importlib.metadata.distributions()}
    extra = next((f"[{x[4:10]}]" for x in sorted(found) if x.startswith("jax-cuda")), "")
    return [*NEEDS[peer], f"jax{extra}=={importlib.metadata.version('jax')}"]


def python_of(peer: str) -> Path:
    """The Python that has this peer, which is installed if it is not there.

    Raises:
      Missing: pip could not install it.
    """
    python, stamp = FOLDER / "bin" / "python", FOLDER / f"{peer}.json"
    wanted = needs(peer)
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    print(f"Installing {peer} into {FOLDER} (once) ...", file=sys.stderr, flush=True)
    if not python.exists():
        made = _run([sys.executable, "-m", "venv", "--without-pip", str(FOLDER)])
        if made.returncode:
            raise Missing(f"no environment could be made: {_last(made)}")
    done = _run([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *wanted])
    if done.returncode:
        raise Missing(f"could not be installed: {_last(done)}")
    stamp.write_text(json.dumps(wanted))
    return python


def versions() -> dict[str, str]:
    """The versions of the peers that are there."""
    code = "import importlib.metadata as m; print(m.version('{}'))"
    python = str(FOLDER / "bin" / "python")
    found = {}
    for peer in NEEDS:
        if (FOLDER / f"{peer}.json").exists():
            found[peer] = _run([python, "-c", code.format(peer)]).stdout.strip()
    return found


def _run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last(done: subprocess.CompletedProcess) -> str:
    """The error in one line: the first that pip calls one, or the last of the output."""
    lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
    return next((x for x in lines if x.startswith("ERROR:")), lines[-1])
