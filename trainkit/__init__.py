"""trainkit: one train step for every placement, models that grow, laws for update rules."""

from trainkit.loss import Loss, LossFn
from trainkit.state import TrainState

__version__ = "0.1.0"

__all__ = ["Loss", "LossFn", "TrainState"]
