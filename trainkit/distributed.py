"""Starting JAX with several processes that train one model.

    import trainkit

    trainkit.distributed.initialize()  # before anything else uses JAX's devices

`trainkit launch -n 2 -- python script.py` starts such processes on this machine. On a cluster, the
scheduler starts them.
"""

from __future__ import annotations

import os

import jax

from trainkit._core.processes import LAUNCHED, end_together

# The timeout for the heartbeat, and for shutdown: together less than a minute. (JAX's defaults are
# 100 and 300 seconds.)
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
    """Connects the processes of a run; does nothing if there is only one process.

    Arguments that are `None` are read from the environment variables JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID (which `trainkit launch` sets), or detected by
    `jax.distributed.initialize()` (Slurm, Open MPI, Kubernetes, TPU pods).

    If one process dies, the others end within a minute with a message.

    Args:
      coordinator: address of process 0, "host:port".
      processes: the number of processes.
      process: the number of this process, from 0.

    Raises:
      RuntimeError: there are several processes, and JAX's devices have been used before.
    """
    if jax.distributed.is_initialized():
        return
    address, of, number = VARIABLES
    coordinator = coordinator or os.environ.get(address)
    processes, process = _number(processes, of), _number(process, number)
    if not os.environ.get("JAX_CPU_COLLECTIVES_IMPLEMENTATION"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would catch SIGTERM; in `fit`, the processes agree on when to stop.
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
        # No cluster was found, or JAX has been used before: both are fine for one process.
        if (coordinator, processes, process) == (None,) * 3 and not _is_scheduled():
            return
        raise
    for name in (*VARIABLES, LAUNCHED):
        os.environ.pop(name, None)  # child processes are not processes of the run
    end_together()


def _is_scheduled() -> bool:
    """Whether an environment variable of a scheduler says that there are several processes."""
    return any(os.environ.get(name, "1") not in ("", "1") for name in _SCHEDULERS)


def _number(given: int | None, name: str) -> int | None:
    text = os.environ.get(name)
    return given if given is not None or text is None else int(text)
