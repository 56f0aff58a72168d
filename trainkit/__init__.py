"""trainkit: one train step for every placement, models that grow, and tests of update rules.

`step` is one training step and `loop` the run around it. `growth` makes a model larger, and
`progressive` decides when. `docs/design.md` describes every package. Read `step` first.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trainkit import placement
from trainkit._core.versions import VERSION as __version__
from trainkit.step.eval_step import EvalStep, make_eval_step
from trainkit.step.guard import NonFiniteError
from trainkit.step.loss import Loss, LossFn
from trainkit.step.precision import LossScale, Precision
from trainkit.step.state import TrainState
from trainkit.step.statistics import refresh_statistics
from trainkit.step.train_step import TrainStep, make_train_step

# For type checkers: the imports of `__getattr__`. They make no cycle, because nothing in the
# package imports the package itself.
if TYPE_CHECKING:
    from trainkit import (
        cost,
        data,
        distributed,
        growth,
        hooks,
        laws,
        loggers,
        packed,
        pretrained,
        progressive,
        regularise,
        report,
        schedules,
        sweep,
        transforms,
    )
    from trainkit.adapters.batches import Call
    from trainkit.adapters.linen import from_linen
    from trainkit.adapters.nnx import from_nnx
    from trainkit.batch_noise import noise_scale
    from trainkit.loop import checkpoint
    from trainkit.loop.fit import fit
    from trainkit.loop.hooks import Change, Now
    from trainkit.loop.record import FitResult
    from trainkit.loop.stopping import EarlyStopping
    from trainkit.rate_finder import find_rate

__all__ = [
    "Call",
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
    "__version__",
    "checkpoint",
    "cost",
    "data",
    "distributed",
    "find_rate",
    "fit",
    "from_linen",
    "from_nnx",
    "growth",
    "hooks",
    "laws",
    "loggers",
    "make_eval_step",
    "make_train_step",
    "noise_scale",
    "packed",
    "placement",
    "pretrained",
    "progressive",
    "refresh_statistics",
    "regularise",
    "report",
    "schedules",
    "sweep",
    "transforms",
]

# Imported at first use: each needs a library that `import trainkit` should not wait for.
_FROM = {
    "Call": "adapters.batches",
    "Change": "loop.hooks",
    "EarlyStopping": "loop.stopping",
    "FitResult": "loop.record",
    "Now": "loop.hooks",
    "find_rate": "rate_finder",
    "fit": "loop.fit",
    "from_linen": "adapters.linen",
    "from_nnx": "adapters.nnx",
    "noise_scale": "batch_noise",
}


def __getattr__(name: str) -> Any:
    if name in _FROM:
        return getattr(importlib.import_module(f"trainkit.{_FROM[name]}"), name)
    if name in __all__:
        inside = "loop.checkpoint" if name == "checkpoint" else name
        return importlib.import_module(f"trainkit.{inside}")
    raise AttributeError(f"module 'trainkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
