"""Checks of other options: flags, names, paths, lists, mappings, functions, random keys."""

from __future__ import annotations

import inspect
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from trainkit._core.validation.values import hinted, integer, keywords, named_of

# JAX uses only 32 bits of a seed.
SEEDS = 2**32


def flag(name: str, value: Any, of: str = "", hint: str = "") -> None:
    """Raises TypeError unless a value is a bool: the string "no" would count as true.

    >>> flag("overwrite", "no")
    Traceback (most recent call last):
    TypeError: overwrite must be True or False, not 'no'.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{named_of(of)}{name} must be True or False, not {value!r}{hinted(hint)}")


def text(name: str, value: Any, of: str = "", hint: str = "") -> None:
    """Raises TypeError unless a value is a non-empty string.

    >>> text("metric", 3, hint="give the name of a metric")
    Traceback (most recent call last):
    TypeError: metric must be a string, not 3; give the name of a metric.
    """
    if not isinstance(value, str) or not value:
        raise TypeError(f"{named_of(of)}{name} must be a string, not {value!r}{hinted(hint)}")


def path(name: str, value: Any) -> None:
    """Raises TypeError unless a value is a path of a file system.

    >>> path("out", 3)
    Traceback (most recent call last):
    TypeError: out must be a path, such as "runs/mine", not 3.
    """
    place = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(place, str) or not place or "\0" in place:
        raise TypeError(f'{name} must be a path, such as "runs/mine", not {value!r}.')


def listed(name: str, value: Any, example: str, of: str = "") -> None:
    """Raises TypeError unless a value is a list or another ordered iterable.

    >>> listed("hooks", None, "[hook]")
    Traceback (most recent call last):
    TypeError: hooks must be a list, such as [hook], not None.
    """
    loose = isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable)
    if loose or isinstance(value, set | frozenset):
        raise TypeError(
            f"{named_of(of)}{name} must be a list, such as {example}, not {_short(value)}."
        )


def mapping(name: str, value: Any, example: str, of: str = "") -> None:
    """Raises TypeError unless a value is a mapping with string keys.

    >>> mapping("config", 3, "{'width': 3}")
    Traceback (most recent call last):
    TypeError: config must be a dict, such as {'width': 3}, not 3.
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{named_of(of)}{name} must be a dict, such as {example}, not {_short(value)}."
        )
    for key in value:
        text(f"every name in {name}", key, of)


def function(name: str, value: Any, what: str, takes: int | None = None) -> None:
    """Raises TypeError unless a value is callable, with `takes` positional arguments if given.

    >>> function("evaluate", lambda: {}, "of the state", takes=1)
    Traceback (most recent call last):
    TypeError: evaluate must be a function of the state, which takes 1 argument, not 0.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function {what}, not {_short(value)}.")
    if takes is None:
        return
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # a function written in C has no signature
        return
    try:
        signature.bind(*[None] * takes)
    except TypeError:
        raise TypeError(
            f"{name} must be a function {what}, which takes {takes} argument"
            f"{'s' if takes > 1 else ''}, not {len(signature.parameters)}."
        ) from None


def random_key(name: str, value: Any, of: str = "", *, seeds: bool = True) -> None:
    """Raises TypeError unless a value is a random key or, with `seeds`, an integer seed.

    >>> random_key("rng", "0")
    Traceback (most recent call last):
    TypeError: rng must be a random key or a seed, not '0'; give jax.random.key(0).
    """
    if isinstance(value, jax.core.Tracer):
        return
    hint = "give jax.random.key(0)"
    if seeds and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        integer(name, value, of, least=0, below=SEEDS, hint="it is a seed")
        return
    dtype = getattr(value, "dtype", None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and np.shape(value) in ((2,), (4,))
    if not (typed and np.shape(value) == ()) and not raw:
        kinds = "a random key or a seed" if seeds else "a random key"
        raise TypeError(f"{named_of(of)}{name} must be {kinds}, not {_short(value)}; {hint}.")


def key_of(name: str, value: Any, of: str = "") -> jax.Array:
    """The random key of an integer seed, or the key itself; TypeError for anything else."""
    random_key(name, value, of)
    return jax.random.key(int(value)) if isinstance(value, numbers.Integral) else value


def bound(of: str, call: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The arguments of a function by name, with its defaults.

    Raises:
      TypeError: an unknown argument, or a missing one; the message names it.
    """
    signature = inspect.signature(call)
    parameters = signature.parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        keywords(kwargs, [p.name for p in parameters], of)
    try:
        found = signature.bind(*args, **kwargs)
    except TypeError as error:
        shown = ", ".join(map(str, parameters))
        raise TypeError(f"{of}: {error}; it takes {of}({shown}).") from None
    found.apply_defaults()
    return found


def _short(value: Any) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 60 else f"a {type(value).__name__}"
