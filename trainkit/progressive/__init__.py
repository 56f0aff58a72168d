"""Runs that grow: stages, probes, a ledger, and nothing that stalls."""

from trainkit.progressive.ahead import Ahead, keep_compiled
from trainkit.progressive.built import Built, Recipe
from trainkit.progressive.hook import Growing
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.limits import Limits
from trainkit.progressive.passage import Passage
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.run import ProgressiveResult, progressive, replay

__all__ = [
    "Ahead",
    "Built",
    "Growing",
    "Ledger",
    "Limits",
    "Passage",
    "Price",
    "Probe",
    "ProgressiveResult",
    "Recipe",
    "keep_compiled",
    "progressive",
    "replay",
]
