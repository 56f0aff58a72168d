"""Selecting leaves of a checkpoint by patterns, and renaming them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from trainkit._core import validation
from trainkit._core.paths import compiled
from trainkit._core.validation import near

Patterns = str | Sequence[str]


class Patterned:
    """Regular expressions that match the start of a name, up to its end or a "/".

    >>> where = Patterned("params")
    >>> "params/w" in where, "parameters/w" in where, "opt_state/params/w" in where
    (True, False, False)
    """

    def __init__(self, patterns: Patterns, option: str = ""):
        if not isinstance(patterns, str):
            validation.listed(option, patterns, "['params']")
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        for pattern in self.patterns:
            validation.text(f"every pattern of {option}", pattern)
        self._compiled = _compiled_prefixes(self.patterns, option)

    def __contains__(self, name: object) -> bool:
        return any(pattern.match(str(name)) for pattern in self._compiled)

    def check_used(self, option: str, names: Sequence[str], of: str) -> None:
        """Raises ValueError for a pattern that matches no name."""
        for pattern in self.patterns:
            one = Patterned(pattern)
            if not any(name in one for name in names):
                tops = list(dict.fromkeys(name.split("/")[0] for name in names))
                hint = near(pattern, [*names, *tops]) or "."
                where = of.replace("The ", "the ", 1) if of.startswith("The ") else of
                raise ValueError(
                    f"{option}={pattern!r} matches the start of no leaf's name in {where}{hint} "
                    f"Names at the top: {', '.join(tops)}."
                )


def renamed(names: Sequence[str], rename: Mapping[str, str], of: str) -> dict[str, str]:
    """New name -> old name; the first pattern that matches the start of a name decides.

    >>> renamed(["params/old/w", "step"], {"params/old": "params/new"}, "it")
    {'params/new/w': 'params/old/w', 'step': 'step'}
    """
    patterns = dict(zip(rename, _compiled_prefixes(rename, "rename"), strict=True))
    for pattern, new in rename.items():
        validation.text(f"rename[{pattern!r}]", new)
        Patterned(pattern).check_used("rename", names, of)
    found: dict[str, str] = {}
    for name in names:
        new = name
        for pattern, regex in patterns.items():
            if match := regex.match(name):
                new = _replacement(match, rename[pattern]) + name[match.end() :]
                break
        if new in found:
            raise ValueError(
                f"rename gives {found[new]} and {name} the same name {new}; exclude one of them "
                "with only=[...]."
            )
        found[new] = name
    return found


def _compiled_prefixes(patterns: Iterable[str], option: str) -> list[re.Pattern[str]]:
    """Compiled expressions that match up to the end of a part of a name."""
    return [re.compile(rf"(?:{one.pattern})(?=/|$)") for one in compiled(patterns, option)]


def _replacement(match: re.Match[str], new: str) -> str:
    try:
        return match.expand(new)
    except (re.error, IndexError) as error:
        raise ValueError(f"rename has the invalid replacement {new!r}: {error}.") from error


def is_subtree(only: Patterns | None, names: Sequence[str]) -> bool:
    """Whether `only` is the name of one subtree, which is then returned by itself."""
    return (
        isinstance(only, str)
        and re.escape(only).replace("\\", "") == only
        and any(name == only or name.startswith(f"{only}/") for name in names)
    )
