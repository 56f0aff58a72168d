"""Notes on an error from inside a step: whose function raised it, and what it was called with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from trainkit._core.validation import steps

PyTree = Any
START = "This error comes from "


@contextlib.contextmanager
def noted(whose: str, called_with: Callable[[], str]) -> Iterator[None]:
    """Adds to an error whose function it comes from, unless a function inside has done so."""
    try:
        yield
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not _is_ours(error) and not any(note.startswith(START) for note in notes):
            error.add_note(f"{START}{whose}. It was called with {called_with()}")
        raise


@contextlib.contextmanager
def explained(loss_fn: Any, params: PyTree, model_state: PyTree, batch: PyTree) -> Iterator[None]:
    """Adds the shapes of parameters and batch to an error from inside a loss function.

    If the loss function has `refuse`, that may raise a more specific error instead.
    """

    def shapes() -> str:
        return (
            f"params {{{steps.described(params)}}} and a batch of {{{steps.described(batch)}}}: "
            "does it expect these?"
        )

    with noted("the loss_fn of the step", shapes):
        try:
            yield
        except Exception as error:
            refuse = getattr(loss_fn, "refuse", None)
            if refuse is not None and not _is_ours(error):
                refuse(params, model_state, batch)
            raise


def _is_ours(error: Exception) -> bool:
    """Whether a check of this package raised the error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return name.startswith("trainkit.")
