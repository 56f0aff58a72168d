"""Float64 NumPy references for the rules and schedules that `like` accepts, written from papers.

In: the hyper-parameters of an Optax function. Out: a step from gradients and parameters to updates.
Rules that Optax has not are in `papers`, and their own signatures say their hyper-parameters.
`pieces` says how a reference is written; `rules`, `contrib` and `wrapped` put them together under
the names of Optax, `deviations` says where Optax departs from a paper. The tests of
`trainkit.transforms` use them as well. Read `pieces` first.
"""

from trainkit.laws.oracles.catalogue import RULES, Oracle, oracle_for
from trainkit.laws.oracles.deviations import DEVIATIONS, Deviation
from trainkit.laws.oracles.papers import PAPERS
from trainkit.laws.oracles.schedules import SCHEDULES

__all__ = ["DEVIATIONS", "PAPERS", "RULES", "SCHEDULES", "Deviation", "Oracle", "oracle_for"]
