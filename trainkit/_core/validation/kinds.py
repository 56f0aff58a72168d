"""Checks of other options: flags, names, paths, lists, mappings, functions, random keys."""

from __future__ import annotations

import contextlib
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.validation.values import concrete, hinted, integer, keywords, named_of

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


def function(name: str, value: Any, what: str, takes: int | None = None, hint: str = "") -> None:
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
        parameters = signature.parameters.values()
        needed = [p for p in parameters if p.default is p.empty]
        named = [p.name for p in needed if p.kind is p.KEYWORD_ONLY]
        found = f"{sum(p.kind is not p.KEYWORD_ONLY for p in parameters)}"
        if named:
            found += f" and, only by name, {', '.join(named)}; remove the * before it"
        raise TypeError(
            f"{name} must be a function {what}, which takes {takes} argument"
            f"{'s' if takes > 1 else ''}, not {found}{hinted(hint)}"
        ) from None


def schedule(name: str, value: Any) -> None:
    """Raises TypeError for a function that is no schedule: step, an int32 scalar -> a number.

    Nothing is run. An error inside of the function is left to where it is used.

    >>> def falling(peak, steps): ...
    >>> schedule("learning_rate", falling)
    Traceback (most recent call last):
    TypeError: learning_rate must be a function of the step, which takes 1 argument, not 2; \
if it makes schedules, call it: falling(…).
    """
    made = f"if it makes schedules, call it: {getattr(value, '__name__', 'it')}(…)"
    function(name, value, "of the step", takes=1, hint=made)
    results: list[Any] = []
    with contextlib.suppress(Exception):
        step = jax.ShapeDtypeStruct((), np.int32)
        jax.eval_shape(lambda count: results.append(value(count)), step)
    for result in results:
        scheduled(name, result)


def scheduled(name: str, result: Any) -> None:
    """Raises TypeError for the result of a schedule that is no number.

    >>> scheduled("learning_rate", "fast")
    Traceback (most recent call last):
    TypeError: learning_rate must be a schedule that returns a number, not 'fast'.
    """
    array = isinstance(result, jax.Array | np.ndarray | np.generic)
    scalar = array and np.ndim(result) == 0 and jax.dtypes.issubdtype(result.dtype, np.number)
    if not scalar and (array or concrete(result) is None):
        shown = f"an array of shape {result.shape}" if array and result.ndim else _short(result)
        if callable(result):
            shown = "a function: call what makes the schedule first"
        raise TypeError(f"{name} must be a schedule that returns a number, not {shown}.")


def random_key(name: str, value: Any, of: str = "", *, seeds: bool = True) -> None:
    """Raises TypeError unless a value is a random key or, with `seeds`, an integer seed.

    >>> random_key("rng", "0")
    Traceback (most recent call last):
    TypeError: rng must be a random key or a seed, not '0'; give jax.random.key(0).
    """
    if seeds and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        integer(name, value, of, least=0, below=SEEDS, hint="it is a seed")
        return
    if seeds and _is_seed(value):
        if not isinstance(value, jax.core.Tracer):
            integer(name, int(value), of, least=0, below=SEEDS, hint="it is a seed")
        return
    array = isinstance(value, jax.Array | np.ndarray)
    dtype, shape = (value.dtype, value.shape) if array else (None, None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and shape == ():
        return
    hint = "give jax.random.key(0)"
    if typed:
        hint = f"it is an array of {math.prod(shape or ())} keys, give one of them"
    elif dtype == np.uint32 and shape in ((2,), (4,)):
        if shape == _key_words():
            return
        impl = "rbg" if shape == (4,) else "threefry2x32"
        hint = f"give jax.random.wrap_key_data({name}, impl={impl!r})"
    kinds = "a random key or a seed" if seeds else "a random key"
    raise TypeError(f"{named_of(of)}{name} must be {kinds}, not {_short(value)}; {hint}.")


def key_of(name: str, value: Any, of: str = "") -> jax.Array:
    """The random key of an integer seed, or the key itself; TypeError for anything else.

    The key of a seed is concrete, inside `jit` too.
    """
    random_key(name, value, of)
    if isinstance(value, jax.core.Tracer):
        return jax.random.key(value) if _is_seed(value) else value
    with jax.ensure_compile_time_eval():
        if isinstance(value, numbers.Integral) or _is_seed(value):
            return jax.random.key(int(value))
        return jnp.asarray(value)


def _is_seed(value: Any) -> bool:
    """Whether a value is an array of one whole number."""
    if not isinstance(value, jax.Array | np.ndarray) or value.shape:
        return False
    dtype = value.dtype  # np.issubdtype does not know the dtypes of keys
    return not jax.dtypes.issubdtype(dtype, jax.dtypes.extended) and dtype.kind in "iu"


def _key_words() -> tuple[int, ...]:
    """The shape of a raw key of the default implementation."""
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


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
