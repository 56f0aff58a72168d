"""Schedules: functions of an integer step, and states that react to a validation metric.

Input: numbers. Output: `step -> value`, jittable, finite for every int32 step. `decay` and `phases`
hold the schedules, and `plateau` the reactive ones. `steps` is the arithmetic on step counts. Read
`decay` first.
"""

from trainkit.schedules.decay import (
    constant,
    cosine,
    cosine_restarts,
    dynamic,
    exponential,
    inverse_sqrt,
    inverse_time,
    linear,
    multi_step,
    piecewise_constant,
    polynomial,
    step,
)
from trainkit.schedules.drawing import plot
from trainkit.schedules.phases import join, one_cycle, scale, warmup, wsd
from trainkit.schedules.plateau import (
    PlateauState,
    StoppingState,
    early_stopping,
    reduce_on_plateau,
)
from trainkit.schedules.steps import Schedule

__all__ = [
    "PlateauState",
    "Schedule",
    "StoppingState",
    "constant",
    "cosine",
    "cosine_restarts",
    "dynamic",
    "early_stopping",
    "exponential",
    "inverse_sqrt",
    "inverse_time",
    "join",
    "linear",
    "multi_step",
    "one_cycle",
    "piecewise_constant",
    "plot",
    "polynomial",
    "reduce_on_plateau",
    "scale",
    "step",
    "warmup",
    "wsd",
]
