"""Growth: widen and deepen a model while it trains."""

from trainkit.growth.blueprint import AxisLeaf, LeafPlan, Plan
from trainkit.growth.errors import GrowthError
from trainkit.growth.exact import ExactState, exact
from trainkit.growth.leaf import AxisGrowth, LeafGrowth
from trainkit.growth.moments import Origin, fold_opt_state, grow_opt_state
from trainkit.growth.planning import plan
from trainkit.growth.slots import Slot

__all__ = [
    "AxisGrowth",
    "AxisLeaf",
    "ExactState",
    "GrowthError",
    "LeafGrowth",
    "LeafPlan",
    "Origin",
    "Plan",
    "Slot",
    "exact",
    "fold_opt_state",
    "grow_opt_state",
    "plan",
]
