"""The place in the data as a checkpoint holds it: something that JSON gives back as it was."""

from __future__ import annotations

import json
from typing import Any


def to_json(position: Any, name: str = "data.position") -> Any:
    """The position (or what else is to come back as it was) as JSON holds it.

    Raises:
      TypeError: JSON would give it back as something else.

    >>> to_json({"shard": 3, "at": (1, 2)})
    {'shard': 3, 'at': [1, 2]}
    """
    if _is_plain(position):
        return json.loads(json.dumps(position))
    raise TypeError(
        f"{name} must be what JSON can hold (numbers, strings, None, and lists, tuples and dicts "
        f"with string keys of them), not {position!r}: a run could not go on from it."
    )


def from_json(saved: Any, like: Any) -> Any:
    """The position that was saved, of the kind that the data gives: a tuple where it is one."""
    if not isinstance(like, tuple):
        return saved
    return type(like)(*saved) if hasattr(like, "_fields") else type(like)(saved)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)
