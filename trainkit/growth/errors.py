"""The one error of growth: what cannot grow, where, why, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GrowthError(ValueError):
    """Raised, before anything is run or allocated, when no exact growth exists or none was found.

    Attributes:
      axis: the axis that stands in the way, as "4 → 8", or `None`.
      params: paths of the parameters that have this axis.
      primitive: the operation that cannot follow, or `None`.
      source: "file:line (function)" of that operation, or `None`.
      hint: what to do instead.

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
    ):
        self.axis = axis
        self.params = tuple(params)
        self.primitive = primitive
        self.source = source
        self.hint = hint
        self.reason = message
        # For who tries otherwise: the grown leaves of the axes, and others that fail by themselves.
        self.leaves: list[Any] = []
        self.others: list[Any] = []
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
