"""Growth: make a model wider and deeper while it trains.

Input: a small and a big model, with shapes. `plan` finds how the parameters of one become those of
the other. `Plan.realise` draws the random values and returns a `GrowthMap`, which grows parameters
and optimizer states. `grow` does all of this for a training state. The folders are compiler passes:
`ir` (programs), `axes`, `analysis`, `rules` (one per primitive), `depth` (new layers) produce a
`plan`; `maps`, `opt_state` and `views` apply it. Read `api` first.
"""

from trainkit.growth.api import grow, plan
from trainkit.growth.errors import GrowthError
from trainkit.growth.growth_map import GrowthMap
from trainkit.growth.growth_plan import Plan
from trainkit.growth.ir.definitions import define_primitive
from trainkit.growth.operators import Operator
from trainkit.growth.opt_state.slots import Slot
from trainkit.growth.plan.inputs import NewInputs
from trainkit.growth.views.activations import activations
from trainkit.growth.views.certificate import Certificate
from trainkit.growth.views.prune import prune

__all__ = [
    "Certificate",
    "GrowthError",
    "GrowthMap",
    "NewInputs",
    "Operator",
    "Plan",
    "Slot",
    "activations",
    "define_primitive",
    "grow",
    "plan",
    "prune",
]
