"""Training and evaluation: how a module says in which of the two it runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax

# What arguments and fields of modules are called, and what they are in training.
NAMES = {
    "train": True,
    "training": True,
    "is_training": True,
    "is_train": True,
    "enable_dropout": True,
    "deterministic": False,
    "inference": False,
    "eval_mode": False,
    "use_running_average": False,
}
Modes = Mapping[str, bool] | None


def modes_of(
    module: Any, mode: Modes, known: Collection[str]
) -> tuple[dict[str, bool], dict[str, bool]]:
    """What is set in training: arguments of the module's call, and fields of the module.

    Args:
      module: its `__call__` is looked at.
      mode: name -> value in training (in evaluation the opposite); `None`: those of `NAMES` that
        are arguments or fields.
      known: the names of fields.

    Raises:
      ValueError: a name that is neither.
    """
    arguments = inspect.signature(type(module).__call__).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    names = NAMES if mode is None else mode
    called = {n: v for n, v in names.items() if n in arguments}
    fields = {n: v for n, v in names.items() if n in known and n not in called}
    if mode is None:
        return called, fields
    unknown = [n for n in mode if n not in called and n not in fields]
    if unknown and not takes_any:
        raise ValueError(
            f"mode={{{unknown[0]!r}: …}}: {type(module).__name__} has neither an argument of that "
            f"name (its call takes {', '.join(list(arguments)[1:])}) nor a field."
        )
    return called | {n: mode[n] for n in unknown}, fields


def in_mode(names: Mapping[str, bool], train: bool) -> dict[str, Any]:
    """The values of these names in training or in evaluation."""
    return {name: value if train else not value for name, value in names.items()}


def drops(module: Any) -> bool:
    """Whether a module drops something in training: it has a rate above 0."""
    rates = (getattr(module, name, 0) for name in ("rate", "dropout_rate"))
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def check_modes(name: str, train: Any, evaluation: Any, *args: Any) -> None:
    """Refuses a module with dropout or batch statistics that runs alike in both modes.

    Args:
      name: of the module.
      train, evaluation: the two functions of `args`.

    Raises:
      ValueError: their programs are the same.
    """
    programs = [str(jax.make_jaxpr(fn)(*args)) for fn in (train, evaluation)]
    one, other = (re.sub("0x[0-9a-f]+", "", program) for program in programs)  # addresses
    if one == other:
        raise ValueError(
            f"{name} has dropout or batch statistics, but does the same in training and in "
            "evaluation. Say how it is told which of the two it is in, by the name of an argument "
            "or field and its value in training: mode={'use_dropout': True}; or mode={} if one "
            "mode is what you want (frozen statistics, no dropout)."
        )
