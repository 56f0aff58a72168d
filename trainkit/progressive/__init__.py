"""Runs that grow: stages, probes, a ledger, and nothing that stalls."""

from trainkit.progressive.background import Ahead, keep_compiled
from trainkit.progressive.hook import Growing
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.limits import Limits
from trainkit.progressive.prepare import Built, Recipe
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.run import ProgressiveResult, progressive, replay
from trainkit.progressive.transition.switch import Transition

__all__ = [
    "Ahead",
    "Built",
    "Growing",
    "Ledger",
    "Limits",
    "Price",
    "Probe",
    "ProgressiveResult",
    "Recipe",
    "Transition",
    "keep_compiled",
    "progressive",
    "replay",
]
