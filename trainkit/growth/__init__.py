"""Growth: widen and deepen a model while it trains."""

from trainkit.growth.deepen import Deepened, deepen
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.perturb import shrink_and_perturb
from trainkit.growth.opt_state.exact import ExactState, exact
from trainkit.growth.opt_state.grow import Origin, fold_opt_state, grow_opt_state
from trainkit.growth.opt_state.slots import Slot
from trainkit.growth.plan.data import AxisPlan, GrownAxis, LeafPlan, Plan
from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth
from trainkit.growth.planning import plan
from trainkit.growth.train_state import grow, grow_with_details
from trainkit.growth.views.activations import activations
from trainkit.growth.views.certificate import Certificate
from trainkit.growth.views.certify import certify
from trainkit.growth.views.mup import LeafMuP, MuP
from trainkit.growth.views.prune import Selection

__all__ = [
    "AxisGrowth",
    "AxisPlan",
    "Certificate",
    "Deepened",
    "ExactState",
    "GrownAxis",
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
