"""What a field of an optimizer state is, as far as growth is concerned.

A slot is described by its degree of homogeneity in the gradient: slot′ = f^degree · slot. Degrees
are those of the plain rule, as if the grown model had been trained by it with the gradients f·g[π]
from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args


class Slot(NamedTuple):
    """A parameter-shaped slot: slot′ = c^weight · f^gradient · slot[π].

    Attributes:
      weight: the power of the weight factor c.
      gradient: the power of the gradient factor f.
      new: what entries of new units hold: 0, or the mean over the old ones of the same row or
        column (second moments: 0 with an old count makes the first updates many times too large).
      norm_weight, norm_gradient: powers of the factors by which the leaf's whole norm grows.
      entries: the power of √(entries of the grown leaf / of the small one): −1 where the norm is
        a root mean square.
      lead: axes in front that are not the parameter's.
      per_leaf: the slot holds one number a leaf, not one an entry.
      means: axes of length 1 in the slot are means over that axis of the parameter. They grow as if
        what they are a mean of were the same along the axis.
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
"""One field: a degree in the gradient (1: momentum, 2: second moment); a `Slot`; "params" (a copy
of the parameters); "keep" (counts, schedules, keys, scalars); "state" (a state inside); "measured"
(rewritten by the next update before anything reads it)."""

Fields = Mapping[str, Kind]
Slots = Mapping[type, Fields]


def as_slot(kind: int | Slot) -> Slot:
    """Degree d as a slot: even degrees are non-negative moments, so new entries get the mean."""
    if isinstance(kind, Slot):
        return kind
    return Slot(gradient=float(kind), new="zero" if kind % 2 else "mean")


def check_slots(slots: Slots | None) -> None:
    """Refuses what describes no states."""
    words = get_args(get_args(Kind)[-1])
    for cls, fields in (slots or {}).items():
        if not isinstance(cls, type) or not isinstance(fields, Mapping):
            raise ValueError(f"slots={{{cls!r}: …}}: give a class of states and a dict of fields")
        for field, kind in fields.items():
            if not isinstance(kind, int | Slot) and kind not in words:
                raise ValueError(
                    f"slots: {cls.__name__}.{field} is {kind!r}; it must be a degree in the "
                    f"gradient (1, 2), a Slot, or one of {', '.join(words)}"
                )
