"""What a program costs: FLOPs, bytes, memory; known before it runs.

Input: a function or a step with arrays or their shapes. Output: numbers, or a table to print. Read
`flops` first: it counts from the jaxpr; `program` asks the compiler.
"""

from trainkit.cost.collectives import Collective, collectives
from trainkit.cost.devices import Chip, chip_of, peak_flops
from trainkit.cost.flops import count_flops
from trainkit.cost.forecast import Forecast, forecast
from trainkit.cost.micro_batch import MicroBatch, largest_micro_batch
from trainkit.cost.program import Cost, cost, program_flops
from trainkit.cost.step import step_flops, whole_program
from trainkit.cost.summary import summary

__all__ = [
    "Chip",
    "Collective",
    "Cost",
    "Forecast",
    "MicroBatch",
    "chip_of",
    "collectives",
    "cost",
    "count_flops",
    "forecast",
    "largest_micro_batch",
    "peak_flops",
    "program_flops",
    "step_flops",
    "summary",
    "whole_program",
]
