"""Which leaves of a checkpoint are meant, and what they are called where they go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from trainkit._core.paths import compiled
from trainkit._core.validation import near

Patterns = str | Sequence[str]


class Patterned:
    """Regular expressions that are matched from the beginning of a name to its end or to a "/".

    >>> where = Patterned("params")
    >>> "params/w" in where, "parameters/w" in where, "opt_state/params/w" in where
    (True, False, False)
    """

    def __init__(self, patterns: Patterns):
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        self._compiled = compiled(rf"(?:{pattern})(?=/|$)" for pattern in self.patterns)

    def __contains__(self, name: object) -> bool:
        return any(pattern.match(str(name)) for pattern in self._compiled)

    def check_used(self, option: str, names: Sequence[str], of: str) -> None:
        """Refuses a pattern that no name matches."""
        for pattern in self.patterns:
            one = Patterned(pattern)
            if not any(name in one for name in names):
                tops = list(dict.fromkeys(name.split("/")[0] for name in names))
                hint = near(pattern, [*names, *tops]) or "."
                raise ValueError(
                    f"{option}={pattern!r} is the beginning of no leaf's name in {of}{hint} At the "
                    f"top there are: {', '.join(tops)}."
                )


def renamed(names: Sequence[str], rename: Mapping[str, str], of: str) -> dict[str, str]:
    """New name -> name, of each; the first expression that matches a name's beginning decides.

    >>> renamed(["params/old/w", "step"], {"params/old": "params/new"}, "it")
    {'params/new/w': 'params/old/w', 'step': 'step'}
    """
    patterns = dict(zip(rename, compiled(rf"(?:{p})(?=/|$)" for p in rename), strict=True))
    for pattern in rename:
        Patterned(pattern).check_used("rename", names, of)
    found: dict[str, str] = {}
    for name in names:
        new = name
        for pattern, regex in patterns.items():
            if match := regex.match(name):
                new = match.expand(rename[pattern]) + name[match.end() :]
                break
        if new in found:
            raise ValueError(
                f"rename gives {found[new]} and {name} the one name {new}; leave one of them out "
                "with only=[...]."
            )
        found[new] = name
    return found


def is_subtree(only: Patterns | None, names: Sequence[str]) -> bool:
    """Whether one subtree is asked for by its name, which is then given without that name."""
    return (
        isinstance(only, str)
        and re.escape(only).replace("\\", "") == only
        and any(name == only or name.startswith(f"{only}/") for name in names)
    )
