"""Growth: widen and deepen a model while it trains.

`plan` finds how the parameters of one model become those of another, `Plan.realise` draws what is
random in it, and a `GrowthMap` grows parameters and optimizer states; `grow` does it all for a
training state. Read `api` first. The passes are folders: `ir` (programs), `axes`, `analysis`,
`rules`, `depth` -> `plan` (data) -> `maps` -> `opt_state`, `views`.
"""

from trainkit.growth.api import Plan, grow, plan
from trainkit.growth.errors import GrowthError
from trainkit.growth.growth_map import GrowthMap
from trainkit.growth.ir.definitions import define_primitive
from trainkit.growth.operators import Operator
from trainkit.growth.opt_state.slots import Slot
from trainkit.growth.views.activations import activations
from trainkit.growth.views.certificate import Certificate
from trainkit.growth.views.prune import prune

__all__ = [
    "Certificate",
    "GrowthError",
    "GrowthMap",
    "Operator",
    "Plan",
    "Slot",
    "activations",
    "define_primitive",
    "grow",
    "plan",
    "prune",
]
