"""What has to be the same in every process of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

from trainkit._core.identity import lasting
from trainkit._core.processes import alone, same
from trainkit.loop.hooks import named
from trainkit.loop.saved.retention import KEPT, Retention


def check_alike(run: Any, retention: Retention, config: Any, out: Any) -> None:
    """Refuses processes that would go different ways.

    Args:
      run: the `Session` that is to begin.
      retention: which checkpoints are kept.
      config, out: as `fit` has them.
    """
    if alone():
        return
    options = dataclasses.asdict(run.budget) | {
        **{name: getattr(retention, name) for name in KEPT},
        "averages": run.averages,
        "config": lasting(config or {}, "config"),
        "out": str(getattr(out, "path", out)),
        "early_stopping": repr(run.early_stopping),
        "hooks": list(named(run.hooks)),
        "evaluate": run.evaluate is not None,
    }
    names = ("eval_every", "checkpoint_every", "log_every", "prefetch", "stop_nonfinite", "resume")
    options |= {name: getattr(run, name) for name in (*names, "best_metric", "best_mode")}
    for name in ("size", "batch_size", "seed", "shuffle", "steps_per_epoch"):
        options[f"data.{name}"] = getattr(run.data, name, None)
    options["data.position"] = repr(getattr(run.data, "position", None))
    same(options, "give fit the same in every process.")
