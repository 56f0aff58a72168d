"""trainkit: one train step for every placement, models that grow, laws for update rules."""

from typing import Any

from trainkit import placement
from trainkit.evaluate import EvalStep, make_eval_step
from trainkit.loss import Loss, LossFn
from trainkit.precision import LossScale, Precision
from trainkit.state import TrainState
from trainkit.step import NonFiniteError, TrainStep, make_train_step

__version__ = "0.1.0"

__all__ = [
    "EvalStep",
    "Loss",
    "LossFn",
    "LossScale",
    "NonFiniteError",
    "Precision",
    "TrainState",
    "TrainStep",
    "from_linen",
    "from_nnx",
    "make_eval_step",
    "make_train_step",
    "placement",
]

# Imported when first asked for: each brings a library that `import trainkit` must not wait for.
_LAZY = {"from_linen": "trainkit.linen", "from_nnx": "trainkit.nnx"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'trainkit' has no attribute {name!r}")
