"""What is wrong where a loss cannot be computed: with the state, the batch, or the loss itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from trainkit._core.validation import steps

PyTree = Any


@contextlib.contextmanager
def explained(loss_fn: Any, state: Any, batch: PyTree) -> Iterator[None]:
    """Says with an error from inside a loss function what that was given.

    A loss function that can tell by itself (`refuse`) raises an error of its own instead.
    """
    try:
        yield
    except Exception as error:
        if not _is_ours(error):
            refuse = getattr(loss_fn, "refuse", None)
            if refuse is not None:
                refuse(state.params, state.model_state, batch)
            error.add_note(
                "This comes from the loss_fn that the step was made with. It was called with "
                f"params {{{steps.described(state.params)}}} and a batch of "
                f"{{{steps.described(batch)}}}: are these the ones that it is written for?"
            )
        raise


def _is_ours(error: Exception) -> bool:
    """Whether a check of this package raised it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return name.startswith("trainkit.")
