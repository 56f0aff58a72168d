"""FLOPs of a train step over all its devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainkit.cost.flops import count_flops
from trainkit.cost.program import cost, uncounted_flops

PyTree = Any


def step_flops(step: Any, state: PyTree, batch: PyTree) -> float:
    """FLOPs of one call of a train step, over all its devices.

    For a step of `make_train_step`, from the compiled program, with all iterations of its loops;
    for another jitted function, from its jaxpr; otherwise 0.0. An attribute `flops_per_call` of the
    step is returned as it is, so that a step that was compiled ahead is not traced again.
    """
    known = getattr(step, "flops_per_call", None)
    if known is not None:
        return float(known)
    if not all(hasattr(step, name) for name in ("compile", "program", "placement")):
        return count_flops(step, state, batch) if hasattr(step, "lower") else 0.0
    uncounted = uncounted_flops(whole_program(step), (state, batch))
    return cost(step.compile(state, batch)).flops * step.placement.parts + uncounted


def whole_program(step: Any) -> Callable[..., Any]:
    """A step's program over all its devices, for `count_flops`."""
    place = step.placement
    if not hasattr(place, "mapped"):
        return step.program
    # pmap has the same program; here shard_map binds its axis.
    return place.mapped(step.program, 0 if step.steps_per_call == 1 else 1)
