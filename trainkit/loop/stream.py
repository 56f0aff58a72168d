"""What `fit` was given as data, as a stream with a position."""

from __future__ import annotations

import math
from typing import Any

from trainkit.data.loader import Loader
from trainkit.loop.stopping import Budget


def streamed(data: Any, budget: Budget, early_stopping: Any, out: Any) -> Any:
    """The data themselves where they have a position that can be restored; else a `Loader`.

    Raises:
      ValueError: `epochs` of what cannot be gone over again, or parts of what has no length.
    """
    if all(hasattr(data, name) for name in ("__next__", "position", "restore")):
        return data
    passes, epochs = None, budget.epochs
    if epochs is not None:
        passes = math.ceil(epochs)
    elif budget == Budget() and early_stopping is None:
        passes = 1
    loader = Loader(data, passes=passes, stateful=out is not None)
    if epochs is not None and loader.once:
        raise ValueError(
            f"epochs={epochs:g} needs data that can be gone over again; data is a "
            f"{type(data).__name__}, which ends. Give a list or a loader, or use steps= instead."
        )
    if epochs is not None and epochs != passes and not hasattr(loader, "steps_per_epoch"):
        raise ValueError(
            f"epochs={epochs:g} needs data whose length is known; {type(data).__name__} has no "
            f"len. Use epochs={passes}, or steps=."
        )
    return loader
