"""Values as JSON, so that values of different processes can be compared.

Arrays become digests of their bytes, functions and classes become their full names, and sets are
sorted.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def digest(array: Any) -> str:
    """The digest of the bytes of an array or a string, as hexadecimal text.

    >>> digest("a") == digest(np.frombuffer(b"a", np.uint8))
    True
    """
    if isinstance(array, str):
        array = np.frombuffer(array.encode(), np.uint8)
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.blake2b(content.data, digest_size=16).hexdigest()


def lasting(value: Any, name: str) -> Any:
    """The value as JSON.

    Raises:
      TypeError: a value has no representation that is the same in another process; it is named.

    >>> lasting({"sizes": (1, 2), "loss": np.square, "tags": {"b", "a"}}, "config")
    {'sizes': [1, 2], 'loss': 'numpy.square', 'tags': ['a', 'b']}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        found = {str(key): lasting(item, f"{name}[{key!r}]") for key, item in value.items()}
        if len(found) < len(value):
            twice = next(k for k in found if sum(str(key) == k for key in value) > 1)
            raise TypeError(f"{name} has the key {twice!r} twice, once as a string and once not.")
        return found
    if isinstance(value, list | tuple):
        return [lasting(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((lasting(item, name) for item in value), key=json.dumps)
    if hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return [str(jax.random.key_impl(value)), lasting(jax.random.key_data(value), name)]
    if isinstance(value, np.generic) or (hasattr(value, "dtype") and np.shape(value) == ()):
        return lasting(np.asarray(value).item(), name)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.asarray(value)
        if array.dtype.hasobject:
            return lasting(array.tolist(), name)
        return f"{array.dtype}{list(array.shape)} {digest(array)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"": type(value).__qualname__} | lasting(fields, name)
    if isinstance(value, functools.partial):
        return [lasting(part, name) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _named(value, name)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two mappings of JSON values, in words; `True` is not 1."""
    return [
        f"{name}: {_shown(then, name)} there, {_shown(now, name)} now"
        for name in dict.fromkeys([*then, *now])
        if _shown(then, name) != _shown(now, name)
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(_numbers(values[name])) if name in values else "nothing"


def _numbers(value: Any) -> Any:
    """The value with whole floats as integers, so that 1.0 and 1 are equal."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _named(value: Any, name: str) -> str:
    own = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if own is not None and "<" not in own:
        return f"{getattr(value, '__module__', None) or type(value).__module__}.{own}"
    shown = repr(value)
    if own is not None or " at 0x" in shown:
        raise TypeError(
            f"{name} is {shown}, which would differ in another process: pass a number, a string "
            "or a named function instead, or leave it out."
        )
    return shown
