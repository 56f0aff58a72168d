"""What cannot grow: a `Conflict` where programs are searched, a `GrowthError` for who called.

A search returns conflicts as data, and decides from their fields what to try next. The last one
becomes the error, at the border to the user.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

T = TypeVar("T")

# What was asked when the conflict arose: whether the programs are one model's, how axes and
# constants fit together, which layouts they may have, scales, shares of copies, what padding holds,
# which layers are new.
Kind = Literal["programs", "axes", "layouts", "scales", "shares", "padding", "layers"]


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Why there is no way of growing under what was supposed (layouts, which layers are new).

    Attributes:
      why: what stands in the way, in words, with the equation that shows it.
      kind: what was being decided.
      axis: the axes that stand in the way, as "4 → 8", or `None`.
      params: paths of the parameters that have them.
      primitive: the operation that cannot follow, or `None`.
      source: "file:line (function)" of that operation, or `None`.
      hint: what to do instead.
      remedy: the operator that would do (`how=`), where one is known.
      leaves: the parts of axes that it is about, which might be laid out otherwise.
      others: parts of other axes that would be in conflict by themselves.
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

    def error(self) -> GrowthError:
        """The error that says it."""
        return GrowthError(
            self.why,
            axis=self.axis,
            params=self.params,
            primitive=self.primitive,
            source=self.source,
            hint=self.hint,
            remedy=self.remedy,
        )


def unwrap(result: T | Conflict) -> T:
    """A result; raises the `GrowthError` of a conflict."""
    if isinstance(result, Conflict):
        raise result.error()
    return result


class GrowthError(ValueError):
    """Raised, before anything is run or allocated, when no exact growth exists or none was found.

    Attributes:
      axis: the axis that stands in the way, as "4 → 8", or `None`.
      params: paths of the parameters that have this axis.
      primitive: the operation that cannot follow, or `None`.
      source: "file:line (function)" of that operation, or `None`.
      hint: what to do instead.
      remedy: the operator that would do (`how=`), where one is known.

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
    ):
        self.axis = axis
        self.params = tuple(params)
        self.primitive = primitive
        self.source = source
        self.hint = hint
        self.remedy = remedy
        lines = [message]
        if axis:
            lines.append(f"  axis:       {axis}")
        if self.params:
            shown = self.params[:6]
            more = f" and {len(self.params) - 6} more" if len(self.params) > 6 else ""
            lines.append(f"  parameters: {', '.join(shown)}{more}")
        if primitive:
            lines.append(f"  primitive:  {primitive}")
        if source:
            lines.append(f"  source:     {source}")
        if hint:
            lines.append(f"  instead:    {hint}")
        super().__init__("\n".join(lines))
