"""Progressive training: a list of stages, each trained until its trigger fires, then grown.

Input: stages, data and a budget. Output: the trained state, the history of the run, and its cost.
`run` is the public function; `hook` drives the loop of `fit` through the stages. Read `run` first.
"""

from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.run import progressive
from trainkit.progressive.stages import triggers
from trainkit.progressive.stages.stage import Data, Stage

__all__ = ["Data", "Price", "Probe", "Stage", "progressive", "triggers"]
