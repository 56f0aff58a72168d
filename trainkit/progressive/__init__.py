"""Progressive training: each stage trains its model until a trigger fires, then grows it.

Input: stages, data and a budget. Output: the trained state, the run's history and its cost.
`run` has the public function; `hook` moves the loop of `fit` through the stages. Read `run` first.
"""

from trainkit.progressive.advice.advise import advise
from trainkit.progressive.advice.decision import Advice
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.programs import programs
from trainkit.progressive.run import progressive
from trainkit.progressive.stages import triggers
from trainkit.progressive.stages.stage import Data, Stage

__all__ = [
    "Advice",
    "Data",
    "Price",
    "Probe",
    "Stage",
    "advise",
    "programs",
    "progressive",
    "triggers",
]
