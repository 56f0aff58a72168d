"""Float64 NumPy references for the rules and schedules that `like` accepts."""

from trainkit.laws.oracles.catalogue import RULES, Oracle, oracle_for
from trainkit.laws.oracles.schedules import SCHEDULES

__all__ = ["RULES", "SCHEDULES", "Oracle", "oracle_for"]
