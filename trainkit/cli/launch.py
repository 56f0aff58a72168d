"""`trainkit launch -n 2 -- COMMAND ...`: one run in several processes of this machine."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from trainkit._core.processes import LAUNCHED

HELP = """\
Starts COMMAND in several processes of this machine, which train one model together.

  trainkit launch -n 2 -- trainkit train mnist --placement jit
  trainkit launch -n 2 --devices-per-process 4 -- python script.py

A script of your own calls trainkit.distributed.initialize() in its first lines. Each process
draws its share of every batch, and process 0 writes the run's folder."""

MORE = """\
Each line of output begins with the number of its process. Signals (Ctrl-C, SIGTERM, SIGHUP,
SIGUSR1) are passed on, and the run stops at one step in all processes. When one process fails, the
others are ended within a minute. The exit status is that of the first process that failed, or
128 + the number of the signal that ended it.

The processes run on the CPU unless JAX_PLATFORMS says otherwise. On a cluster, let the scheduler
start them instead: trainkit.distributed.initialize() finds the others."""

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
# Seconds: for the others to end by themselves once one has failed, and after that by SIGTERM.
ALONE, TERMINATED = 20.0, 10.0


def main(arguments: Sequence[str]) -> int:
    """Runs the processes to their end; returns the exit status."""
    parser = argparse.ArgumentParser(
        "trainkit launch",
        usage="trainkit launch -n N [--devices-per-process D] [--port P] -- COMMAND ...",
        description=HELP,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--processes", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--devices-per-process", type=int, default=1, metavar="D", help="CPU devices of each (1)"
    )
    parser.add_argument(
        "--port", type=int, help="of this machine, where they meet; a free one by default"
    )
    own, command = _split(list(arguments))
    options = parser.parse_args(own)
    if options.processes < 1 or options.devices_per_process < 1:
        parser.error("there must be at least one process, with at least one device each")
    if not command:
        parser.error("there is no command: write it after --, such as -- trainkit train mnist")
    if shutil.which(command[0]) is None:
        print(f"There is no program {command[0]} to be run.", file=sys.stderr)
        return 127
    address = f"localhost:{options.port or _free_port()}"
    return _Processes(command, options.processes, options.devices_per_process, address).run()


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


# Becomes the command, to which the system sends SIGTERM (15) when the launcher is gone:
# PR_SET_PDEATHSIG (1) of <sys/prctl.h>. Between fork and exec, in a process that has threads, no
# Python may run.
_END_WITH_PARENT = (
    "import ctypes, os, sys\nctypes.CDLL(None).prctl(1, 15)\nos.execvp(sys.argv[1], sys.argv[1:])"
)


class _Processes:
    """The processes of one run, in the order of their numbers."""

    def __init__(self, command: list[str], count: int, devices: int, address: str):
        self._all: list[subprocess.Popen[bytes]] = []
        self._command, self._count = command, count
        self._devices, self._address = devices, address
        self._lock = threading.Lock()
        self._received: list[int] = []

    def run(self) -> int:
        """Starts them and waits until each has ended."""
        before = {
            number: signal.signal(number, lambda number, _: self._received.append(number))
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name))
        }
        printers: list[threading.Thread] = []
        try:
            for index in range(self._count):
                self._all.append(self._start(index))
            for index, process in enumerate(self._all):
                assert process.stdout is not None
                thread = threading.Thread(target=self._print, args=(index, process.stdout))
                thread.start()
                printers.append(thread)
            return self._wait()
        finally:
            for process in self._all:
                _kill(process)
            for thread in printers:
                thread.join(timeout=5)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        flag = "--xla_force_host_platform_device_count"
        flags = re.sub(rf"{flag}=\d+", "", os.environ.get("XLA_FLAGS", ""))
        own = {
            "JAX_COORDINATOR_ADDRESS": self._address,
            "JAX_NUM_PROCESSES": str(self._count),
            "JAX_PROCESS_ID": str(index),
            "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS") or "cpu",
            "XLA_FLAGS": f"{flags} {flag}={self._devices}".strip(),
            "PYTHONUNBUFFERED": "1",
            LAUNCHED: str(self._count),
        }
        ending = [sys.executable, "-ISc", _END_WITH_PARENT] if sys.platform == "linux" else []
        return subprocess.Popen(
            [*ending, *self._command],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C reaches them through this process, once.
            process_group=0,
        )

    def _print(self, index: int, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._say(f"[{index}] {line.decode(errors='replace').rstrip()}")

    def _say(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)

    def _wait(self) -> int:
        """The exit status: 0, or that of the first process that failed."""
        failed: int | None = None
        deadlines = [ALONE, ALONE + TERMINATED]
        begin = 0.0
        while any(process.poll() is None for process in self._all):
            while self._received:
                self._pass_on(self._received.pop(0))
            if failed is None and (failed := self._failed()) is not None:
                begin = time.monotonic()
                self._say_failed(failed)
            if failed is not None and deadlines and time.monotonic() - begin > deadlines[0]:
                deadlines.pop(0)
                for process in self._all:
                    (_terminate if deadlines else _kill)(process)
            time.sleep(0.05)
        if failed is None:
            if (failed := self._failed()) is None:
                return 0
            self._say_failed(failed)  # all have ended since they were last looked at
        code = self._all[failed].returncode
        return code if code > 0 else 128 - code

    def _say_failed(self, index: int) -> None:
        how = _how(self._all[index].returncode)
        self._say(f"Process {index} of {self._count} {how}; the others end too.")

    def _failed(self) -> int | None:
        codes = [process.poll() for process in self._all]
        return next((index for index, code in enumerate(codes) if code), None)

    def _pass_on(self, number: int) -> None:
        self._say(f"{signal.Signals(number).name} is passed on to {self._count} processes.")
        for process in self._all:
            if process.poll() is None:
                process.send_signal(number)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"has ended with status {code}"


def _terminate(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process, with whatever it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
