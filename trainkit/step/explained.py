"""Notes on an error from inside a loss function: what it was called with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from trainkit._core.validation import steps

PyTree = Any


@contextlib.contextmanager
def explained(loss_fn: Any, state: Any, batch: PyTree) -> Iterator[None]:
    """Adds the shapes of parameters and batch to an error from inside a loss function.

    If the loss function has `refuse`, that may raise a more specific error instead.
    """
    try:
        yield
    except Exception as error:
        if not _is_ours(error):
            refuse = getattr(loss_fn, "refuse", None)
            if refuse is not None:
                refuse(state.params, state.model_state, batch)
            error.add_note(
                "This error comes from the loss_fn of the step. It was called with "
                f"params {{{steps.described(state.params)}}} and a batch of "
                f"{{{steps.described(batch)}}}: does it expect these?"
            )
        raise


def _is_ours(error: Exception) -> bool:
    """Whether a check of this package raised the error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return name.startswith("trainkit.")
