"""The place in the data as a checkpoint holds it: something that JSON gives back as it was."""

from __future__ import annotations

import contextlib
import json
from typing import Any


def to_json(position: Any) -> Any:
    """The position as JSON holds it.

    Raises:
      TypeError: JSON would give it back as something else.

    >>> to_json({"shard": 3, "at": (1, 2)})
    {'shard': 3, 'at': [1, 2]}
    """
    with contextlib.suppress(TypeError, ValueError):
        if (saved := json.loads(json.dumps(position))) == _lists(position):
            return saved
    raise TypeError(
        "data.position must be what JSON can hold (numbers, strings, None, and lists, tuples "
        f"and dicts with string keys of them), not {position!r}: a run could not go on from it."
    )


def from_json(saved: Any, like: Any) -> Any:
    """The position that was saved, of the kind that the data gives: a tuple where it is one."""
    if not isinstance(like, tuple):
        return saved
    return type(like)(*saved) if hasattr(like, "_fields") else type(like)(saved)


def _lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return {k: _lists(v) for k, v in value.items()} if isinstance(value, dict) else value
