"""Checks of options: numbers, integers, choices, types.

Each message has one form: "name must be …, not …; how to fix it". `of` is the name of the function
whose option it is, and comes first.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

# The intervals that hyper-parameters may lie in, by kind: see `number`.
NOT_NEGATIVE: dict[str, Any] = {"least": 0}
POSITIVE: dict[str, Any] = {"above": 0}
BOUND: dict[str, Any] = {"above": 0, "finite": False}  # infinity means no bound
BETA: dict[str, Any] = {"least": 0, "below": 1}
SHARE: dict[str, Any] = {"least": 0, "most": 1}

# The interval of a hyper-parameter, by its name. Only names in this table are checked, and only
# these are injected. Other options (flags, sizes, masks) are static.
# fmt: off
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys((
        "learning_rate", "adam_learning_rate", "weight_decay", "adam_weight_decay",
        "weight_decay_rate", "strength", "eps", "eps_root", "epsilon", "adam_eps_root", "damping",
        "temperature", "initial_accumulator_value", "initial_scale", "eta", "gamma", "min_delta",
        "tol", "weight_lr_power", "trust_coefficient", "threshold", "precond_learning_rate",
    ), NOT_NEGATIVE),
    **dict.fromkeys((
        "b1", "b2", "b3", "beta", "beta1", "beta2", "rho", "momentum", "decay", "adam_b1",
        "adam_b2", "shampoo_beta",
    ), BETA),
    **dict.fromkeys((
        "max_norm", "max_value", "clip_threshold", "clipping", "max_delta", "clipping_threshold",
        "radius",
    ), BOUND),
    "step_size": {},
}

# Sizes and intervals, which are static: the least value of each.
COUNTS: dict[str, int] = {
    "ns_steps": 1, "min_dim_size_to_factor": 1, "decay_offset": 0, "max_iterations": 1,
    "memory_size": 1, "update_interval": 1, "precondition_frequency": 1, "max_precond_dim": 0,
    "num_data": 1, "start_preconditioning_step": 1,
}
# fmt: on


def concrete(value: Any) -> float | None:
    """The Python number in `value`; `None` if it has no value yet (tracers, schedules)."""
    if isinstance(value, bool | jax.core.Tracer):
        return None
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and np.ndim(value) == 0:
        return float(value) if jax.dtypes.issubdtype(value.dtype, np.number) else None
    return None


def number(
    name: str,
    value: Any,
    of: str = "",
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    finite: bool = True,
    hint: str = "",
) -> None:
    """Raises TypeError for a value that is no number, ValueError outside the interval (or NaN).

    Tracers, and arrays that are not scalars, pass.

    >>> number("decay", 1.5, **BETA)
    Traceback (most recent call last):
    ValueError: decay must be in [0, 1), not 1.5.
    """
    found = concrete(value)
    if found is None:
        if isinstance(value, jax.core.Tracer) or (_is_array(value) and value.ndim):
            return
        raise TypeError(f"{named_of(of)}{name} must be a number, not {value!r}{hinted(hint)}")
    inside = (
        (not finite or math.isfinite(found))
        and (least is None or found >= least)
        and (above is None or found > above)
        and (most is None or found <= most)
        and (below is None or found < below)
        and not math.isnan(found)
    )
    if not inside:
        words = _interval(least, above, most, below, finite)
        raise ValueError(f"{named_of(of)}{name} must be {words}, not {value}{hinted(hint)}")


def _is_array(value: Any) -> bool:
    """Whether a value is an array of numbers."""
    array = isinstance(value, np.ndarray | jax.Array)
    return array and jax.dtypes.issubdtype(value.dtype, np.number)


def _interval(
    least: float | None, above: float | None, most: float | None, below: float | None, finite: bool
) -> str:
    low, high = above if least is None else least, below if most is None else most
    if low is not None and high is not None:
        return f"in {'[' if above is None else '('}{low}, {high}{']' if below is None else ')'}"
    one_sided = {"at least": least, "greater than": above, "at most": most, "less than": below}
    parts = [f"{words} {bound}" for words, bound in one_sided.items() if bound is not None]
    return " and ".join((["finite"] if finite else []) + parts)


def integer(
    name: str,
    value: Any,
    of: str = "",
    *,
    least: int | None = 1,
    below: int = 2**31,
    hint: str = "",
) -> None:
    """Raises ValueError unless a value is an integer with least ≤ value < below (2³¹ for steps).

    >>> integer("steps", 2.0)
    Traceback (most recent call last):
    ValueError: steps must be an integer of at least 1, not 2.0.
    """
    if isinstance(value, jax.core.Tracer):
        return
    whole = isinstance(value, numbers.Integral) or (
        isinstance(value, jax.Array)
        and value.ndim == 0
        and jax.dtypes.issubdtype(value.dtype, np.integer)
    )
    if not whole or isinstance(value, bool) or (least is not None and int(value) < least):
        words = "an integer" if least is None else f"an integer of at least {least}"
        raise ValueError(f"{named_of(of)}{name} must be {words}, not {value!r}{hinted(hint)}")
    if int(value) >= below:
        words = "2³¹ (steps are int32)" if below == 2**31 else str(below)
        raise ValueError(f"{named_of(of)}{name} must be below {words}, not {value}.")


def hyperparameter(name: str, value: Any, of: str = "") -> None:
    """Applies the check for a hyper-parameter's name. Unknown names pass."""
    if name in HYPERPARAMETERS and not callable(value):
        number(name, value, of, **HYPERPARAMETERS[name])
    if name in COUNTS:
        integer(name, value, of, least=COUNTS[name])


def choice(
    name: str, value: Any, known: Iterable[Any], of: str = "", hint: str = "", other: str = ""
) -> None:
    """Raises ValueError, with a suggestion, for a value that is not in `known`.

    `other` describes further accepted values, for the message.

    >>> choice("mode", "mx", ("min", "max"))
    Traceback (most recent call last):
    ValueError: mode must be 'min' or 'max', not 'mx'; did you mean 'max'?
    """
    known = list(known)
    if value in known:
        return
    *rest, last = [*map(repr, known), *([other] if other else [])]
    words = f"{', '.join(rest)} or {last}" if rest else last
    suggestion = hinted(hint) if hint else near(value, known) or "."
    raise ValueError(f"{named_of(of)}{name} must be {words}, not {value!r}{suggestion}")


def kind(name: str, value: Any, wanted: type, example: str) -> None:
    """Raises TypeError, with an example, for a value that is not an instance of a class.

    >>> kind("data", 3, dict, "{}")
    Traceback (most recent call last):
    TypeError: data must be a dict, such as {}, not 3.
    """
    if not isinstance(value, wanted):
        raise TypeError(f"{name} must be a {wanted.__name__}, such as {example}, not {value!r}.")


def transformation(value: Any, name: str = "tx") -> None:
    """Raises TypeError for a value that is not a gradient transformation.

    >>> transformation(3)
    Traceback (most recent call last):
    TypeError: tx must be a gradient transformation with init and update, such as \
optax.adam(1e-3), not int.
    """
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        found, hint = type(value).__name__, ""
        if inspect.isfunction(value):
            found, hint = f"the function {value.__name__}", f"call it: {value.__name__}(…)"
        raise TypeError(
            f"{name} must be a gradient transformation with init and update, such as "
            f"optax.adam(1e-3), not {found}{hinted(hint)}"
        )


def keywords(given: Iterable[str], known: Iterable[str], of: str) -> None:
    """Raises TypeError, with a suggestion, for an option that a function does not have."""
    known = list(known)
    for name in given:
        if name not in known:
            end = near(name, known) or "."
            raise TypeError(f"{of} has no option {name!r}{end} Known: {', '.join(known)}.")


def named_options(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator that raises TypeError, with a suggestion, for an unknown keyword.

    Of an `__init__` the message names the class. It keeps the signature, so that type checkers also
    find unknown keywords.

    >>> @named_options
    ... def train(data, *, steps): ...
    >>> train([], stesp=3)
    Traceback (most recent call last):
    TypeError: train has no option 'stesp'; did you mean 'steps'? Known: steps.
    """
    parameters = inspect.signature(function).parameters
    _, _, of = function.__qualname__.removesuffix(".__init__").rpartition(".")
    own = int(of != function.__name__)  # `self`
    positional = [p for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    variable = any(p.kind is p.VAR_POSITIONAL for p in positional)
    most = sys.maxsize if variable else len(positional)
    # All that can be given by name to a class, whose first parameter is the object itself.
    known = keyword_names(function) if of == function.__name__ else [*parameters][1:]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        keywords([name for name in kwargs if name not in parameters], known, of)
        if len(args) > most:
            raise TypeError(
                f"{of} takes {most - own} argument{'s'[: most - own != 1]} without a name, not "
                f"{len(args) - own}; give the others by name: {', '.join(f'{n}=…' for n in known)}."
            )
        return function(*args, **kwargs)

    return call


def keyword_names(function: Callable[..., Any]) -> list[str]:
    """The names of a function's keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def near(name: Any, known: Iterable[Any]) -> str:
    """`; did you mean 'jit'?` if a similar name is known, else an empty string."""
    names = {each.lower(): each for each in known if isinstance(each, str)}
    found = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[found[0]]!r}?" if found else ""


def named_of(of: str) -> str:
    """The start of a message: the function whose argument it is."""
    return f"{of}: " if of else ""


def hinted(hint: str) -> str:
    """The end of a message: how to fix the argument."""
    return f"; {hint}." if hint else "."
