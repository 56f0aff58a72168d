"""The options of `fit` as a type, for functions that pass them on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from trainkit.loggers.logger import Logger
from trainkit.loop.run_folder import RunFolder
from trainkit.loop.stopping import EarlyStopping


class FitOptions(TypedDict, total=False):
    """The options of `fit` but its budget, evaluation and hooks."""

    eval_every: int | None
    early_stopping: EarlyStopping | None
    best_metric: str
    best_mode: str
    loggers: Sequence[Logger]
    out: str | os.PathLike | RunFolder | None
    config: Mapping[str, Any] | None
    overwrite: bool
    resume: str
    checkpoint_every: int | None
    keep: int
    keep_best: int
    keep_every: int | None
    keep_seconds: float | None
    log_every: int
    prefetch: int
    stop_nonfinite: bool
    averages: bool | int
    progress: bool
    report: bool
