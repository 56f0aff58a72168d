"""trainkit: one train step for every placement, models that grow, laws for update rules."""

import importlib
from typing import Any

from trainkit import placement
from trainkit.evaluate import EvalStep, make_eval_step
from trainkit.guard import NonFiniteError
from trainkit.loss import Loss, LossFn
from trainkit.precision import LossScale, Precision
from trainkit.state import TrainState
from trainkit.step import TrainStep, make_train_step

__version__ = "0.1.0"

__all__ = [
    "Change",
    "EarlyStopping",
    "EvalStep",
    "FitResult",
    "Loss",
    "LossFn",
    "LossScale",
    "NonFiniteError",
    "Now",
    "Precision",
    "TrainState",
    "TrainStep",
    "checkpoint",
    "cost",
    "data",
    "fit",
    "from_linen",
    "from_nnx",
    "growth",
    "laws",
    "make_eval_step",
    "make_train_step",
    "placement",
    "progressive",
    "report",
    "schedules",
    "transforms",
]

# Imported when first asked for: each brings a library that `import trainkit` must not wait for.
_LAZY = {
    "Change": "trainkit.hooks",
    "EarlyStopping": "trainkit.stopping",
    "FitResult": "trainkit.record",
    "Now": "trainkit.hooks",
    "fit": "trainkit.loop",
    "from_linen": "trainkit.linen",
    "from_nnx": "trainkit.nnx",
}
_LAZY_MODULES = (
    "checkpoint",
    "cost",
    "data",
    "growth",
    "laws",
    "packed",
    "progressive",
    "regularise",
    "report",
    "schedules",
    "sweep",
    "transforms",
)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"trainkit.{name}")
    raise AttributeError(f"module 'trainkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
