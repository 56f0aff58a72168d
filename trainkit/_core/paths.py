"""Names of the leaves of a tree, for messages, states and files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

PyTree = Any


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf: its keys joined by "/", as in "params/Dense_0/kernel".

    >>> import jax
    >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"layers": [{"w": 1.0}]})
    >>> path_name(path)
    'layers/0/w'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by name, in the tree's own order.

    >>> named_leaves({"b": 2.0, "a": {"w": 1.0}})
    {'a/w': 1.0, 'b': 2.0}
    """
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def same_structure(one: Any, other: Any) -> bool:
    """Whether two tree structures are equal; `False` if they hold fields that have no equality.

    The static fields of a module are part of its structure. An array among them (a table of
    frequencies) makes `==` raise an error, except where both structures hold the same array.

    >>> import jax
    >>> same_structure(jax.tree.structure([1, 2]), jax.tree.structure([3, 4]))
    True
    """
    try:
        return bool(one == other)
    except ValueError:
        return False


def compiled(patterns: Iterable[str], of: str = "") -> list[re.Pattern[str]]:
    """Compiled regular expressions; `of` is the option that they were given as.

    Raises:
      ValueError: a pattern is not a regular expression.
    """
    option = f"{of}=" if of else ""
    made = []
    for pattern in patterns:
        try:
            made.append(re.compile(pattern))
        except (re.error, TypeError) as error:
            raise ValueError(
                f"{option}{pattern!r} is not a regular expression: {error}."
            ) from error
    return made


def some(names: Sequence[str]) -> str:
    """The first names and the number of the others, for messages.

    >>> some(["a", "b"]), some(list("abcdefgh"))
    ("'a', 'b'", "'a', 'b', 'c', 'd', 'e', 'f' and 2 more")
    """
    shown = ", ".join(repr(name) for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
