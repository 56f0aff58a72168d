"""Errors: a `Conflict` is the result of a failed search, a `GrowthError` is what users see.

A search returns conflicts as data, and decides by their fields what to try next. Public functions
raise the last conflict as a `GrowthError`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeVar

T = TypeVar("T")

# The pass in which the conflict arose: pairing the programs, unifying axes, choosing layouts,
# solving for scales or for shares, padding, aligning layers.
Kind = Literal["programs", "axes", "layouts", "scales", "shares", "padding", "layers"]


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Why growth is impossible under the current choices (layouts, alignment of layers).

    Attributes:
      why: the reason in words, with the equation that shows it.
      kind: the pass in which it arose.
      axis: the axes that cannot grow, as "4 → 8", or `None`.
      params: paths of the parameters that have these axes.
      primitive: the operation that cannot follow the growth, or `None`.
      source: "file:line (function)" of that operation, or `None`.
      hint: what to do instead.
      remedy: an operator (`how=`) that would work, if one is known.
      leaves: axis leaves of the conflict; another layout for them may resolve it.
      others: axis leaves of further, independent conflicts.
      nearby: axis leaves that the message does not name; another layout for them may help too.
    """

    why: str
    kind: Kind
    axis: str | None = None
    params: tuple[str, ...] = ()
    primitive: str | None = None
    source: str | None = None
    hint: str | None = None
    remedy: str | None = None
    leaves: tuple[Any, ...] = ()
    others: tuple[Any, ...] = ()
    nearby: tuple[Any, ...] = ()

    def about(self, leaves: Mapping[str, str]) -> Conflict:
        """The conflict in terms of leaves as they are: "path/3" is row 3 of "path"."""
        why = self.why
        for row, leaf in leaves.items():
            if row != leaf:
                why = re.sub(rf"{re.escape(row)}\b", f"{leaf}[{row.rpartition('/')[2]}]", why)
        params = tuple(dict.fromkeys(leaves.get(name, name) for name in self.params))
        return dataclasses.replace(self, why=why, params=params)

    def error(self, lines: Mapping[str, Sequence[str]] = MappingProxyType({})) -> GrowthError:
        """The conflict as an exception; `lines`: path -> where the model uses it first."""
        return GrowthError(
            self.why,
            axis=self.axis,
            params=self.params,
            primitive=self.primitive,
            source=self.source,
            hint=self.hint,
            remedy=self.remedy,
            lines=lines,
        )


def unwrap(result: T | Conflict) -> T:
    """The result itself, or raises the `GrowthError` of a conflict."""
    if isinstance(result, Conflict):
        raise result.error()
    return result


class GrowthError(ValueError):
    """No exact growth exists, or none was found. Raised before anything is run or allocated.

    Attributes:
      axis: the axis that cannot grow, as "4 → 8", or `None`.
      params: paths of the parameters that have this axis.
      primitive: the operation that cannot follow the growth, or `None`.
      source: "file:line (function)" of that operation, or `None`.
      hint: what to do instead.
      remedy: an operator (`how=`) that would work, if one is known.
      lines: path -> where the model uses it first.

    >>> raise GrowthError("axis 1 of 'rope' changes its frequencies")
    Traceback (most recent call last):
    ...
    trainkit.growth.errors.GrowthError: axis 1 of 'rope' changes its frequencies
    """

    def __init__(
        self,
        message: str,
        *,
        axis: str | None = None,
        params: Sequence[str] = (),
        primitive: str | None = None,
        source: str | None = None,
        hint: str | None = None,
        remedy: str | None = None,
        lines: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ):
        self.axis = axis
        self.params = tuple(params)
        self.primitive = primitive
        self.source = source
        self.hint = hint
        self.remedy = remedy
        self.lines = dict(lines)
        why, _, details = message.partition("\n")
        text = [why if (named := _named(self.params, axis)) is None else f"{named}: {why}"]
        if axis:
            text.append(f"  axis:       {axis}")
        if self.params:
            shown = [_with_line(name, self.lines) for name in self.params[:6]]
            more = f" and {len(self.params) - 6} more" if len(self.params) > 6 else ""
            between = ",\n" + " " * 14 if self.lines else ", "
            text.append(f"  parameters: {between.join(shown)}{more}")
        if primitive:
            text.append(f"  primitive:  {primitive}")
        if source:
            text.append(f"  source:     {source}")
        if details:
            text.append(details)
        if hint:
            text.append(f"  instead:    {hint}")
        super().__init__("\n".join(text))


def _named(params: Sequence[str], axis: str | None) -> str | None:
    """The axis in the user's words, if there is one that grows: "axis 1 of w cannot grow 4→8"."""
    for name in params:
        path, _, place = name.partition(" (axis ")
        number, _, sizes = place.removesuffix(")").partition(": ")
        if "→" in sizes and axis is not None:
            return f"axis {number} of {path} cannot grow {sizes}"
    return None


def _with_line(name: str, lines: Mapping[str, Sequence[str]]) -> str:
    """A parameter, as "path" or "path (axis 0: 4→8)", with the line that uses it first."""
    known = lines.get(name.split(" (axis ")[0], ())
    return f"{name}, used at {known[0]}" if known else name
