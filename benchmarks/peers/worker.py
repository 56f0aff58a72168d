"""Our end of the pipe: a process of one side, which is asked and answers."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.peers.environment import Missing

ROOT = Path(__file__).parents[2]


class Worker:
    """A process that runs a module of `benchmarks.peers`; ends with the `with` block.

    Every side has as many threads as there are cores, and no cache of compiled programs.

    Raises:
      Missing: the process ended before it was ready.
    """

    def __init__(self, python: Path | str, module: str, *arguments: str):
        threads = str(machine.cores())
        self._folder = tempfile.TemporaryDirectory()
        own = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": threads,
            "KERAS_BACKEND": "jax",
            "KERAS_HOME": self._folder.name,
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "TORCHINDUCTOR_CACHE_DIR": self._folder.name,
        }
        self._log = Path(self._folder.name) / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", f"benchmarks.peers.{module}", *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | own,
            )  # fmt: skip
        try:
            self._read()  # it is ready
        except Missing:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer to a request.

        Raises:
          Missing: the side failed; the message has its last words.
        """
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise Missing(f"failed: {answer['error'][:200]}")
        return answer["answer"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            words = self._log.read_text().strip().splitlines() or ["no message"]
            raise Missing(f"does not run: {words[-1][:200]}")
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()
