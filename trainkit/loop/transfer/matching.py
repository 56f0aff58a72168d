"""Matching the leaves of a checkpoint with those of a tree; one error for all that do not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from trainkit.loop.saved.leaves import data_of
from trainkit.loop.saved.step import CheckpointError
from trainkit.loop.transfer.opt_state import OPT_STATE, PARAMS, in_optimizer
from trainkit.loop.transfer.selection import Patterned

PARTS = PARAMS, "model_state", OPT_STATE


@dataclasses.dataclass(frozen=True)
class Match:
    """A match: leaf of the tree -> leaf of the checkpoint, changed dtypes, initialised leaves."""

    taken: dict[str, str]
    cast: dict[str, tuple[str, str]]
    begun: tuple[str, ...]


def match(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    source: Mapping[str, str],
    wanted: Callable[[str], bool],
    *,
    fresh: Patterned,
    cast: bool,
    begins: bool,
    where: str,
) -> Match:
    """Matches each leaf of a tree with its source in a checkpoint.

    Args:
      theirs, ours: name -> leaf (array or shape), for the checkpoint and for the tree.
      source: leaf of the tree -> leaf of the checkpoint.
      wanted: whether a leaf of the tree must be found.
      fresh: leaves of the tree that keep their values.
      cast: whether floating leaves may change their dtype.
      begins: whether `tx` initialises leaves of the optimizer state that are not found.
      where: the checkpoint, for messages.

    Raises:
      CheckpointError: leaves are not found or do not fit; lists them, and options that help.
    """
    taken: dict[str, str] = {}
    changed: dict[str, tuple[str, str]] = {}
    begun: list[str] = []
    wrong: list[tuple[str, str]] = []
    for name, leaf in ours.items():
        if name in fresh:
            continue
        old = source.get(name) or None  # none: another slot of that name
        initialised = begins and in_optimizer(name)
        a, b = None if old is None else data_of(theirs[old]), data_of(leaf)
        if a is None or tuple(a.shape) != tuple(b.shape):
            if initialised:
                begun.append(name)
            elif a is not None or wanted(name):
                found = "nothing" if a is None else f"{a.dtype}{list(a.shape)}"
                kind = "optimizer" if in_optimizer(name) else "missing" if a is None else "shape"
                wrong.append(
                    (f"{name}: {found} in the checkpoint, {b.dtype}{list(b.shape)} wanted", kind)
                )
        elif a.dtype != b.dtype and not (cast and _both_real(a, b)):
            kind = "cast" if _both_real(a, b) else "shape"
            wrong.append((f"{name}: {a.dtype} in the checkpoint, {b.dtype} wanted", kind))
        else:
            assert old is not None
            taken[name] = old
            if a.dtype != b.dtype:
                changed[name] = str(a.dtype), str(b.dtype)
    if wrong:
        raise CheckpointError(_message(where, wrong, theirs))
    return Match(taken, changed, tuple(begun))


def _both_real(a: Any, b: Any) -> bool:
    return all(jnp.issubdtype(x.dtype, jnp.floating) for x in (a, b))


def _message(where: str, wrong: list[tuple[str, str]], theirs: Mapping[str, Any]) -> str:
    first = {kind: line.split(":")[0] for line, kind in reversed(wrong)}
    hints = []
    if "missing" in first:
        tops = [t for t in PARTS if f"{t}/{first['missing']}" in theirs]
        if tops:
            hints.append(f"`into` looks like {tops[0]} only: select it with only={tops[0]!r}")
        else:
            hints.append(
                f'name the source of a leaf with rename={{"its/name/there": '
                f"{first['missing']!r}}}, or keep the values of `into` with "
                f"fresh={first['missing']!r}"
            )
    if "shape" in first:
        hints.append(
            f"keep the values of `into` with fresh={first['shape']!r}, or grow the model with "
            "grow=… (trainkit.growth)"
        )
    if "optimizer" in first:
        hints.append(
            "pass tx=… to initialise these leaves for the restored parameters, or keep the values "
            f"of `into` with fresh={OPT_STATE!r}"
        )
    if "cast" in first:
        hints.append("change dtypes with cast=True")
    lines = sorted(line for line, _ in wrong)
    more = [f"and {len(lines) - 8} more"] if len(lines) > 8 else []
    return (
        f"{where} does not fit:\n  "
        + "\n  ".join(lines[:8] + more)
        + "".join(f"\nTo fix it: {hint}." for hint in hints)
    )
