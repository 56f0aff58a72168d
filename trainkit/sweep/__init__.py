"""Many runs that differ in their options: in one compiled program, or each in a folder of its own.

Input: what a run is, and the values of its options. Output: the results by option, and the best.
`grid` has small runs that are vmapped together; `folders` has runs of `fit` that are resumed,
compared and stopped early. Read `grid` first.
"""

from trainkit.sweep.folders import Runs, SweptRun, sweep_runs
from trainkit.sweep.grid import Sweep, sweep, sweep_training
from trainkit.sweep.pruning import StopBelowMedian

__all__ = [
    "Runs",
    "StopBelowMedian",
    "Sweep",
    "SweptRun",
    "sweep",
    "sweep_runs",
    "sweep_training",
]
