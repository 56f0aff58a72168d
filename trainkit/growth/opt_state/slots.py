"""Kinds of fields of an optimizer state, for growth.

A slot is described by its degree of homogeneity in the gradient: slot′ = f^degree · slot. So the
grown slot is the one that the plain rule would have with the gradients f·g[π] from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args


class Slot(NamedTuple):
    """A parameter-shaped slot: slot′ = c^weight · f^gradient · slot[π].

    Attributes:
      weight: the power of the weight factor c.
      gradient: the power of the gradient factor f.
      new: the entries of padding units: "zero", or the "mean" over the old entries of the same row
        or column (for second moments: 0 with an old count would make the first updates too large).
      norm_weight, norm_gradient: powers of the factors on the norm of the whole leaf.
      entries: the power of √(entries of the grown leaf / entries of the small one); −1 for a root
        mean square.
      lead: the number of leading axes that the parameter does not have.
      per_leaf: whether the slot holds one number for each leaf, not for each entry.
      means: whether axes of length 1 in the slot are means over that axis of the parameter. They
        grow as if the values under the mean were equal along the axis.
    """

    weight: float = 0.0
    gradient: float = 0.0
    new: Literal["zero", "mean"] = "zero"
    norm_weight: float = 0.0
    norm_gradient: float = 0.0
    entries: float = 0.0
    lead: int = 0
    per_leaf: bool = False
    means: bool = False


Kind = int | Slot | Literal["params", "keep", "state", "measured"]
"""The kind of one field: a degree in the gradient (1: momentum, 2: second moment); a `Slot`;
"params" (a copy of the parameters); "keep" (counts, schedules, keys, scalars); "state" (a nested
state); "measured" (the next update overwrites it before it is used)."""

Fields = Mapping[str, Kind]
Slots = Mapping[type, Fields]


def as_slot(kind: int | Slot) -> Slot:
    """A degree as a `Slot`. Even degrees are non-negative moments, so padding gets the mean."""
    if isinstance(kind, Slot):
        return kind
    return Slot(gradient=float(kind), new="zero" if kind % 2 else "mean")


def check_slots(slots: Slots | None) -> None:
    """Raises a `ValueError` if `slots` is not `{StateClass: {field: kind}}`."""
    words = get_args(get_args(Kind)[-1])
    for cls, fields in (slots or {}).items():
        if not isinstance(cls, type) or not isinstance(fields, Mapping):
            raise ValueError(f"slots={{{cls!r}: …}} must map a state class to a dict of fields")
        for field, kind in fields.items():
            if not isinstance(kind, int | Slot) and kind not in words:
                raise ValueError(
                    f"slots: {cls.__name__}.{field} is {kind!r}; it must be a degree in the "
                    f"gradient (1, 2), a Slot, or one of {', '.join(words)}"
                )
