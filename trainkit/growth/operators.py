"""Operators: the values of `how`, one for width and one for depth.

A name is one operator, or two joined by "+". `"preserve"` is `"uneven+identity"`. `"stack"` is
`"uneven+stack"`. `"stack+rms"` uses the RMS-preserving rule for width.
"""

from __future__ import annotations

import dataclasses
import difflib

WIDTH = {
    "uneven": "copies units, and splits outgoing weights in unequal shares: exact",
    "even": "copies units, and splits outgoing weights evenly: exact, but copies stay equal",
    "noise": "splits evenly, and adds noise that sums to zero over the copies: exact",
    "zero_out": "new copies have random incoming weights, and outgoing weights 0: exact",
    "rms": "W′ = W[π]·√(d_in / d_in′): keeps the scale of activations, not the function",
    "perturb": "uneven, then 0.4·θ + 0.1·θ₀ with new initial θ₀, moments reset: not exact",
}
DEPTH = {
    "identity": "new blocks are identities: exact",
    "stack": "repeats the whole sequence of blocks",
    "interpose": "puts each new block after the block that it copies",
    "middle": "repeats the blocks in the middle",
    "last": "repeats the last block",
    "groups": "copies key and value heads; each copy serves a part of the old queries: exact",
    "experts": "copies a dense layer into every expert of a mixture: exact if gates sum to 1",
}
ALIASES = {"preserve": ("uneven", "identity"), "interpolate": ("interpose",)}
EXACT = frozenset({"uneven", "even", "noise", "zero_out", "identity", "groups"})


@dataclasses.dataclass(frozen=True)
class Operator:
    """How width and depth grow.

    Attributes:
      width: a key of `WIDTH`.
      depth: a key of `DEPTH`.
      names: for "experts", pairs (path in the mixture, path in the dense model) of leaves that
        cannot be matched automatically.

    >>> operator("preserve")
    Operator(width='uneven', depth='identity')
    >>> operator("stack+rms").preserves
    False
    """

    width: str = "uneven"
    depth: str = "identity"
    names: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)

    @property
    def preserves(self) -> bool:
        """Whether the grown model computes the same function as the small one."""
        return self.width in EXACT and self.depth in EXACT

    def __str__(self) -> str:
        return "preserve" if self == Operator() else f"{self.width}+{self.depth}"


def operator(how: str | Operator) -> Operator:
    """The operator of a name.

    Raises:
      TypeError: `how` is neither a string nor an `Operator`.
      ValueError: an unknown name, or two names for width or for depth.

    >>> operator("stak")
    Traceback (most recent call last):
    ...
    ValueError: how='stak': there is no operator 'stak'; did you mean 'stack'? Width: uneven, \
even, noise, zero_out, rms, perturb; depth: identity, stack, interpose, middle, last, groups, \
experts; 'preserve' is uneven+identity, and names are joined by '+'.
    """
    if isinstance(how, Operator):
        return how
    if not isinstance(how, str):
        raise TypeError(f"how={how!r} must be the name of an operator, such as 'preserve'.")
    chosen: dict[str, str] = {}
    for part in how.split("+"):
        for name in ALIASES.get(part, (part,)):
            axis = "width" if name in WIDTH else "depth"
            if name not in WIDTH and name not in DEPTH:
                raise ValueError(_unknown(how, name))
            if chosen.get(axis, name) != name:
                raise ValueError(
                    f"how={how!r} names two operators for {axis}: {chosen[axis]!r} and {name!r}."
                )
            chosen[axis] = name
    return Operator(chosen.get("width", Operator.width), chosen.get("depth", Operator.depth))


def _unknown(how: str, name: str) -> str:
    known = [*ALIASES, *WIDTH, *DEPTH]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return (
        f"how={how!r}: there is no operator {name!r}{hint} Width: {', '.join(WIDTH)}; depth: "
        f"{', '.join(DEPTH)}; 'preserve' is uneven+identity, and names are joined by '+'."
    )
