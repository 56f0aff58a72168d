"""`trainkit plan EXPERIMENT`: what a run will need, compiled ahead of time for devices elsewhere.

An experiment that can be planned has, beside `Config` and `run`, a function

    programs(config, **where) -> {name: (step, state, batch)}

which makes its steps with `make_train_step(…, **where)` and gives states and batches as shapes. A
batch is that of one step. An entry may also be another jitted function with its arguments, such as
a growth.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from trainkit.cli.main import unknown
from trainkit.cli.train import experiment_with, experiments

PLACEMENTS = ("single", "pmap", "shard_map", "jit", "fsdp", "periodic")
FLAG = "--xla_force_host_platform_device_count"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainkit plan",
        description="Compiles the steps of an experiment for devices that need not be here, and "
        "says what each device needs: memory, arithmetic, traffic. Nothing is trained.",
        epilog="Options of the experiment follow --, as `trainkit train EXPERIMENT` takes them:\n"
        "trainkit plan mnist --topology v5e:4x4 -- --model cnn --batch-size 8192",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("experiment", help="its name")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--topology", help="a TPU slice, such as v5e:16x16; needs trainkit[tpu-plan]"
    )
    where.add_argument("--devices", type=int, default=8, help="simulated CPU devices (8)")
    add("--placement", nargs="+", choices=PLACEMENTS, default=["jit", "fsdp"], metavar="NAME",
        help=f"one or more of {', '.join(PLACEMENTS)}, to compare (jit fsdp)")  # fmt: skip
    add("--steps-per-call", type=int, default=1, metavar="K",
        help="steps of one call, after which `periodic` takes a mean (1)")  # fmt: skip
    add("--micro-batch", action="store_true",
        help="also find the largest part of the batch that fits")  # fmt: skip
    add("--memory", type=float, metavar="GB", help="of a device, where that is not known")
    return parser


def main(argv: Sequence[str]) -> int:
    """Prints a table for each program and placement; 1 where one does not fit its devices."""
    at = argv.index("--") if "--" in argv else len(argv)
    options, rest = _parser().parse_args(argv[:at]), argv[at + 1 :]
    if options.micro_batch and options.memory is None and not options.topology:
        print("trainkit plan: --micro-batch needs --memory, the GB of a device.", file=sys.stderr)
        return 2
    for flag, count in (
        ("--devices", options.devices),
        ("--steps-per-call", options.steps_per_call),
    ):
        if count < 1:
            print(f"trainkit plan: {flag} {count} must be at least 1.", file=sys.stderr)
            return 2
    found = experiments()
    if options.experiment not in found:
        print(unknown("experiment", options.experiment, list(found)), file=sys.stderr)
        return 2
    # Before JAX starts: planning must not take hold of an accelerator that is here.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if not options.topology:
        flags = re.sub(rf"{FLAG}=\d+", "", os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}={options.devices}".strip()
    try:
        devices = _devices(options.topology, options.devices)
        experiment = experiment_with(
            "programs(config, **where)", "planning", options.experiment, found
        )
        import tyro

        config = tyro.cli(experiment.Config, args=rest, prog="trainkit plan … --")
        fits = [_planned(experiment, config, name, devices, options) for name in options.placement]
    except (ValueError, TypeError, RuntimeError) as error:
        if os.environ.get("TRAINKIT_TRACEBACK"):
            raise
        print(f"trainkit plan: {error}", file=sys.stderr)
        return 2
    return 0 if all(fits) else 1


def _devices(topology: str | None, count: int) -> list[Any]:
    import jax

    if topology is None:
        found = jax.devices()
        if len(found) < count:
            raise ValueError(f"there are {len(found)} devices, because JAX was started before.")
        return found[:count]
    from jax.experimental import topologies

    jax.config.update("jax_enable_compilation_cache", False)  # what is not here cannot be read back
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:
        if "not installed" in str(error) or "Unknown backend" in str(error):
            raise ValueError(
                "a TPU topology needs the TPU compiler: pip install 'trainkit[tpu-plan]'."
            ) from error
        raise ValueError(f"--topology {topology!r}: {str(error).splitlines()[0]}") from error


def _planned(
    experiment: Any, config: Any, placement: str, devices: Sequence[Any], options: Any
) -> bool:
    from trainkit.cost import forecast

    steps = options.steps_per_call
    where: dict[str, Any] = {"placement": placement}
    where["devices"] = devices[:1] if placement == "single" else devices
    if steps > 1:
        where["steps_per_call"] = steps

    def programs(**more: Any) -> dict[str, Any]:
        found = experiment.programs(config, **where, **more)
        several = lambda parts: steps > 1 and hasattr(parts[0], "placement")
        return {
            name: (*parts[:2], _several(parts[2], steps)) if several(parts) else parts
            for name, parts in found.items()
        }

    memory = None if options.memory is None else options.memory * 1e9
    fits = True
    for name, parts in programs().items():
        try:
            found = forecast(*parts, memory=memory)
        except MemoryError as error:
            print(f"{name} · {error}", flush=True)
            fits = False
        else:
            print(f"{name} · {found}", flush=True)
            fits &= found.fits is not False
        if options.micro_batch and hasattr(parts[0], "placement"):
            make = lambda n, name=name: programs(microbatches=n)[name]
            print(f"  {_micro_batch(make, memory)}", flush=True)
        print(flush=True)
    return fits


def _micro_batch(make: Any, memory: float | None) -> str:
    from trainkit._core.units import nbytes
    from trainkit.cost import largest_micro_batch

    found = largest_micro_batch(make, memory)
    if found is None:
        return "micro-batch not even one example at a time fits"
    all_of = found.examples * found.microbatches
    needs = nbytes(found.forecast.cost.peak_bytes)
    return (
        f"micro-batch the largest that fits has {found.examples:,} of a device's {all_of:,} "
        f"examples: microbatches={found.microbatches}, {needs}"
    )


def _several(batch: Any, steps: int) -> Any:
    """The shapes of the batches of several steps."""
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype), batch)
