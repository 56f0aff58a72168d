"""Float64 NumPy references for the rules and schedules that `like` accepts."""

from trainkit.laws.oracles.catalogue import RULES, Oracle, oracle_for
from trainkit.laws.oracles.deviations import DEVIATIONS, Deviation
from trainkit.laws.oracles.schedules import SCHEDULES

__all__ = ["DEVIATIONS", "RULES", "SCHEDULES", "Deviation", "Oracle", "oracle_for"]
