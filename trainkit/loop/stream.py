"""What `fit` was given as data, as a stream with a position that a checkpoint can hold."""

from __future__ import annotations

import math
from typing import Any

import jax

from trainkit._core.processes import gathered
from trainkit.data.loader import Loader, Place
from trainkit.loop.saved.position import from_json, to_json
from trainkit.loop.saved.step import CheckpointError
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


def saved_place(position: Any) -> Any:
    """A position as JSON; of a loader with the states that the processes have."""
    if isinstance(position, Place):
        position = position._replace(state=gathered(position.state))
    return to_json(position)


def place_of(saved: Any, like: Any) -> Any:
    """The position that was saved, with the state of this process.

    Raises:
      CheckpointError: there were more or fewer processes, each with a state of its own.
    """
    position = from_json(saved, like)
    if not isinstance(position, Place):
        return position
    states = position.state
    if any(states) and len(states) != jax.process_count():
        raise CheckpointError(
            f"data had a state in each of {len(states)} processes, and there are "
            f"{jax.process_count()} now: go on with as many, or begin a new run."
        )
    return position._replace(state=states[jax.process_index()] if any(states) else None)
