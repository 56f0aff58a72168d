"""Several processes that train one model: how each one finds the others.

    import trainkit

    trainkit.distributed.initialize()  # before anything else touches JAX's devices

`trainkit launch -n 2 -- python script.py` starts such processes on this machine. On a cluster its
scheduler does.
"""

from __future__ import annotations

import os

import jax

from trainkit._core.processes import LAUNCHED, end_together

# How long one that has stopped answering counts as alive, and how long one that has ended waits
# for the others: together less than a minute. (JAX's own are 100 and 300 seconds.)
SECONDS = 25
_SCHEDULERS = (
    "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JOB_COMPLETION_INDEX",
    "TPU_WORKER_HOSTNAMES",
)  # fmt: skip
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


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
      RuntimeError: there are others, and JAX has been used before.
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
    except (ValueError, RuntimeError):
        # No cluster was found; or JAX has been used before, which is no matter for one process.
        if (coordinator, processes, process) == (None,) * 3 and not _is_scheduled():
            return
        raise
    for name in (*VARIABLES, LAUNCHED):
        os.environ.pop(name, None)  # what this process starts is no process of the run
    end_together()


def _is_scheduled() -> bool:
    """Whether something speaks of a scheduler that starts several processes."""
    return any(os.environ.get(name, "1") not in ("", "1") for name in _SCHEDULERS)


def _number(given: int | None, name: str) -> int | None:
    text = os.environ.get(name)
    return given if given is not None or text is None else int(text)
