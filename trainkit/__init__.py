"""trainkit: one train step for every placement, models that grow, laws for update rules."""

import importlib
from typing import Any

from trainkit import placement
from trainkit.step.eval_step import EvalStep, make_eval_step
from trainkit.step.guard import NonFiniteError
from trainkit.step.loss import Loss, LossFn
from trainkit.step.precision import LossScale, Precision
from trainkit.step.state import TrainState
from trainkit.step.train_step import TrainStep, make_train_step

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
    "Change": "trainkit.loop.hooks",
    "EarlyStopping": "trainkit.loop.stopping",
    "FitResult": "trainkit.loop.record",
    "Now": "trainkit.loop.hooks",
    "fit": "trainkit.loop.fit",
    "from_linen": "trainkit.adapters.linen",
    "from_nnx": "trainkit.adapters.nnx",
}
_LAZY_MODULES = {
    "checkpoint": "trainkit.loop.checkpoint",
    "cost": "trainkit.cost",
    "data": "trainkit.data",
    "growth": "trainkit.growth",
    "laws": "trainkit.laws",
    "packed": "trainkit.packed",
    "progressive": "trainkit.progressive",
    "regularise": "trainkit.regularise",
    "report": "trainkit.report",
    "schedules": "trainkit.schedules",
    "sweep": "trainkit.sweep",
    "transforms": "trainkit.transforms",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(_LAZY_MODULES[name])
    raise AttributeError(f"module 'trainkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
