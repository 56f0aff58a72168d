"""Several processes that train one model: how each one finds the others.

    import trainkit

    trainkit.distributed.initialize()  # before anything else touches JAX's devices

`trainkit launch -n 2 -- python script.py` starts such processes on this machine. On a cluster its
scheduler does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from types import TracebackType

import jax

from trainkit._core.processes import LAUNCHED, ProcessError

# How long one that has stopped answering counts as alive, and how long one that has ended waits
# for the others: together less than a minute. (JAX's own are 100 and 300 seconds.)
SECONDS = 25
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_DEATH = ("Gloo", "Connection closed by peer", "Connection reset by peer", "heartbeat", "NCCL")


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Joins the processes of a run; where there is one process only, does nothing.

    What is not given is taken from the environment, JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID (`trainkit launch` sets them), or found by
    `jax.distributed.initialize()`, which knows Slurm, Open MPI, Kubernetes and TPU pods.

    When one process dies, the others end within a minute, and say that one has.

    Args:
      coordinator: address of process 0, "host:port".
      processes: how many there are.
      process: the number of this one, from 0.

    Raises:
      RuntimeError: JAX has been used before.
    """
    if jax.distributed.is_initialized():
        return
    address, of, number = VARIABLES
    coordinator = coordinator or os.environ.get(address)
    processes, process = _number(processes, of), _number(process, number)
    if not os.environ.get("JAX_CPU_COLLECTIVES_IMPLEMENTATION"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would swallow SIGTERM for good; `fit` agrees on when to stop by itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=SECONDS,
            shutdown_timeout_seconds=SECONDS,
        )
    except ValueError:
        if coordinator is None and processes is None and process is None:
            return  # no cluster was found
        raise
    for name in (*VARIABLES, LAUNCHED):
        os.environ.pop(name, None)  # what this process starts is no process of the run
    if jax.process_count() > 1:
        sys.excepthook = _die


def leave(status: int) -> None:
    """Ends this process at once, not waiting for the others, which then end too."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def explain(error: BaseException) -> str | None:
    """What an error says of another process, in words; `None` where it is this one's own."""
    if isinstance(error, ProcessError):
        return str(error)
    if any(word in str(error) for word in _DEATH):
        return "another process of this run has ended; its own last lines say why."
    return None


def _die(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """The end of a process by an error: it does not wait for others, who would wait for it."""
    count, index = jax.process_count(), jax.process_index()
    if why := explain(error):
        print(f"Process {index} of {count} ends: {why}", file=sys.stderr)
    else:
        traceback.print_exception(kind, error, where)
        print(f"Process {index} of {count} ends by this error.", file=sys.stderr)
    leave(130 if isinstance(error, KeyboardInterrupt) else 1)


def _number(given: int | None, name: str) -> int | None:
    text = os.environ.get(name)
    return given if given is not None or text is None else int(text)
