"""Positions in the data as JSON values that can be restored exactly."""

from __future__ import annotations

import json
from typing import Any


def to_json(position: Any, name: str = "data.position") -> Any:
    """A position, or another value, as JSON that `from_json` restores exactly.

    Raises:
      TypeError: JSON cannot represent the value.

    >>> to_json({"shard": 3, "at": (1, 2)})
    {'shard': 3, 'at': [1, 2]}
    """
    if _is_plain(position):
        return json.loads(json.dumps(position))
    raise TypeError(
        f"{name} must be a JSON value (numbers, strings, None, and lists, tuples and dicts "
        f"with string keys of them), not {position!r}: a run could not resume from it."
    )


def from_json(saved: Any, like: Any) -> Any:
    """The saved position with the type of `like`: a tuple if that is a tuple."""
    if not isinstance(like, tuple):
        return saved
    return type(like)(*saved) if hasattr(like, "_fields") else type(like)(saved)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)
