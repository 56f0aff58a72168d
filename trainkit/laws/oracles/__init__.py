"""Float64 NumPy references for the rules and schedules that `like` accepts, written from papers.

Input: the hyper-parameters of an Optax function. Output: a step from gradients and parameters to
updates. `pieces` defines the form of a reference. `rules`, `contrib` and `wrapped` assemble
references under Optax's names, `papers` those of rules that Optax lacks. `deviations` lists where
Optax departs from a paper. The tests of `trainkit.transforms` use them too. Read `pieces` first.
"""

from trainkit.laws.oracles.catalogue import RULES, Oracle, oracle_for
from trainkit.laws.oracles.deviations import DEVIATIONS, Deviation
from trainkit.laws.oracles.papers import PAPERS
from trainkit.laws.oracles.schedules import SCHEDULES

__all__ = ["DEVIATIONS", "PAPERS", "RULES", "SCHEDULES", "Deviation", "Oracle", "oracle_for"]
