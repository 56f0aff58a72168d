"""Training and evaluation mode of a module: the arguments and fields that set it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax

# Usual names of mode arguments and fields, with their values in training.
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
    """(arguments of the call, fields of the module) that set the mode, with values in training.

    Args:
      module: a module with `__call__`.
      mode: name -> value in training (the opposite in evaluation); `None`: the names in `NAMES`
        that are arguments or fields.
      known: the names of fields.

    Raises:
      ValueError: a name is neither an argument nor a field.
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


def check_call(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuses inputs that the call of a module does not take.

    Raises:
      TypeError: there are too few or too many, or a name is unknown.
    """
    call = inspect.signature(type(module).__call__)
    try:
        call.bind(module, *args, **kwargs)
    except TypeError as error:
        given = f"{len(args)} argument{'s'[: len(args) != 1]}"
        given += f" and {', '.join(map(repr, kwargs))}" if kwargs else ""
        raise TypeError(
            f"inputs= gives {given}, but the call of {type(module).__name__} takes "
            f"({', '.join(list(call.parameters)[1:])}): {error}. Pass inputs= a key, a tuple of "
            "keys, or {argument: key}."
        ) from None


def drops(module: Any) -> bool:
    """Whether a module has a dropout rate above 0."""
    rates = (getattr(module, name, 0) for name in ("rate", "dropout_rate"))
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def check_modes(name: str, train: Any, evaluation: Any, *args: Any) -> None:
    """Refuses a module with dropout or batch statistics that computes the same in both modes.

    Args:
      name: the name of the module.
      train, evaluation: functions of `args`, in the two modes.

    Raises:
      ValueError: both functions have the same program.
    """
    programs = [str(jax.make_jaxpr(fn)(*args)) for fn in (train, evaluation)]
    one, other = (re.sub("0x[0-9a-f]+", "", program) for program in programs)  # addresses
    if one == other:
        raise ValueError(
            f"{name} has dropout or batch statistics, but computes the same in training and in "
            "evaluation. Pass the name of the argument or field that sets the mode, with its value "
            "in training: mode={'use_dropout': True}; or mode={} to use one mode for both (frozen "
            "statistics, no dropout)."
        )
