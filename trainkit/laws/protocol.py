"""The protocol of a transformation: a pair of `init` and `update`, from an object or a factory."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


@contextlib.contextmanager
def ordinary() -> Iterator[None]:
    """Default settings: standard dtype promotion, warnings not as errors, no NumPy warnings."""
    with (
        jax.numpy_dtype_promotion("standard"),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield


def is_transformation(x: Any) -> bool:
    return callable(getattr(x, "init", None)) and callable(getattr(x, "update", None))


def build(made: Any) -> Any:
    """The transformation, from a transformation or a factory without arguments.

    Raises:
      TypeError: it is neither, or the factory needs arguments or returns another type.
      ValueError: the factory raises.
    """
    if is_transformation(made) and not inspect.isclass(made):
        return paired(made)
    shown = getattr(made, "__qualname__", None) or repr(made)
    # A module can be called too, but is no function.
    if not callable(made) or getattr(made, "apply", None) is not None:
        raise TypeError(
            f"expected an optax.GradientTransformation (a pair of init and update) or a function "
            f"of no arguments that makes one, found {type(made).__name__}: {shown:.200}"
        )
    required = _required(made)
    if required and inspect.isclass(made):
        raise TypeError(
            f"expected a rule, found the class {shown}: pass an instance, "
            f"{shown}({', '.join(n + '=…' for n in required)})"
        )
    if required:
        hint = (
            " (a schedule is checked by check_schedule)"
            if required in (["count"], ["step"], ["t"])
            else ""
        )
        raise TypeError(
            f"the factory {shown} needs {', '.join(required)}, but a factory takes no arguments: "
            f"pass lambda: {shown}({', '.join(n + '=…' for n in required)}){hint}"
        )
    try:
        with ordinary():
            tx = made()
    except Exception as error:
        raise ValueError(
            f"the factory {shown} raised {type(error).__name__}: {first_line(error)}; it must "
            f"return an optax.GradientTransformation when called without arguments"
        ) from error
    if not is_transformation(tx):
        raise TypeError(
            f"the factory {shown} returned {type(tx).__name__}: {tx!r:.200}, not an "
            f"optax.GradientTransformation (a pair of init and update)"
        )
    return paired(tx)


def with_rate(made: Any, rate: Any) -> Any:
    """A factory that lacks nothing but its learning rate, with this one; anything else as it is."""
    if is_transformation(made) or _required(made) != ["learning_rate"]:
        return made
    return functools.partial(made, learning_rate=rate)


def _required(made: Any) -> list[str]:
    """The names of the arguments without which a factory cannot be called."""
    try:
        parameters = inspect.signature(made).parameters
    except (ValueError, TypeError):
        return []
    return [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def paired(tx: Any) -> Any:
    """The (init, update) pair of a transformation, or of an object such as `optax.MultiSteps`."""
    if isinstance(tx, tuple):
        return tx
    return optax.GradientTransformation(tx.init, tx.update)
