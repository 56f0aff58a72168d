"""Runs that grow: a list of stages, each trained until its trigger fires, then grown into the next.

Input: stages, data and a budget. Output: the trained state, what happened and what it cost. `run`
is the function, `hook` takes the loop of `fit` through the stages; read them in this order.
"""

from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.run import progressive
from trainkit.progressive.stages import triggers
from trainkit.progressive.stages.stage import Data, Stage

__all__ = ["Data", "Price", "Probe", "Stage", "progressive", "triggers"]
