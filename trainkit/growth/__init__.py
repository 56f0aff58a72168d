"""Growth: widen and deepen a model while it trains."""

from trainkit.growth.blueprint import AxisLeaf, LeafPlan, Plan
from trainkit.growth.certificate import Certificate
from trainkit.growth.certifying import certify
from trainkit.growth.depth import Deepened, deepen
from trainkit.growth.errors import GrowthError
from trainkit.growth.exact import ExactState, exact
from trainkit.growth.leaf import AxisGrowth, LeafGrowth
from trainkit.growth.measuring import activations
from trainkit.growth.moments import Origin, fold_opt_state, grow_opt_state
from trainkit.growth.mup import LeafMuP, MuP
from trainkit.growth.perturbing import shrink_and_perturb
from trainkit.growth.planning import plan
from trainkit.growth.shrinking import Selection
from trainkit.growth.slots import Slot
from trainkit.growth.train_state import grow, grow_with_details

__all__ = [
    "AxisGrowth",
    "AxisLeaf",
    "Certificate",
    "Deepened",
    "ExactState",
    "GrowthError",
    "LeafGrowth",
    "LeafMuP",
    "LeafPlan",
    "MuP",
    "Origin",
    "Plan",
    "Selection",
    "Slot",
    "activations",
    "certify",
    "deepen",
    "exact",
    "fold_opt_state",
    "grow",
    "grow_opt_state",
    "grow_with_details",
    "plan",
    "shrink_and_perturb",
]
