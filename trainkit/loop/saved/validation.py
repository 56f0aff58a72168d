"""Checks of the arguments of a save, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit._core import validation
from trainkit._core.paths import named_leaves
from trainkit._core.validation import steps
from trainkit.loop.saved.position import to_json

PyTree = Any


def check_save(step: Any, state: PyTree, info: Any, score: Any) -> None:
    """Raises an error for arguments that `Checkpointer.save` cannot save.

    Raises:
      TypeError, ValueError: names the argument.
    """
    validation.integer("step", step, least=0, hint="it is the number of steps taken")
    check_arrays("state", state)
    steps.alive(state)
    if info is not None:
        validation.kind("info", info, Mapping, "{'data': sampler.position}")
        to_json(dict(info), "info")
        for name in info:
            if name.startswith("_"):
                raise ValueError(
                    f"info must not have the name {name!r}: names that begin with an underscore "
                    "are reserved."
                )
    if score is not None and validation.concrete(score) is None:
        raise TypeError(f"score must be a number, not {score!r}.")


def check_arrays(name: str, tree: PyTree) -> None:
    """Raises TypeError for a tree without arrays, or with leaves that are not numeric."""
    leaves = named_leaves(tree)
    if not leaves:
        raise TypeError(f"{name} must be a tree of arrays, not {tree!r}, which has none.")
    for leaf, value in leaves.items():
        kind = getattr(getattr(value, "dtype", None), "kind", "f")
        number = hasattr(value, "dtype") or isinstance(value, bool | int | float | complex)
        if not number or kind in "OSUMm":
            where = f"{name}/{leaf}" if leaf else name
            raise TypeError(f"{where} must be an array of numbers, not {value!r:.60}.")
