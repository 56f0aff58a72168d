"""Growth: widen and deepen a model while it trains."""

from trainkit.growth.blueprint import AxisLeaf, LeafPlan, Plan
from trainkit.growth.errors import GrowthError
from trainkit.growth.leaf import AxisGrowth, LeafGrowth
from trainkit.growth.planning import plan

__all__ = ["AxisGrowth", "AxisLeaf", "GrowthError", "LeafGrowth", "LeafPlan", "Plan", "plan"]
