"""The names behind `how`: which operator widens and which deepens.

A name is one operator or several joined by "+": `"preserve"` is `"uneven+identity"`, `"stack"`
deepens by stacking and widens unevenly, `"stack+rms"` widens by the RMS-preserving rule instead.
"""

from __future__ import annotations

import dataclasses
import difflib

WIDTH = {
    "uneven": "copies units and splits what reads them unevenly: exact, and the copies separate",
    "even": "copies units and splits evenly: exact, but copies never separate under most rules",
    "noise": "splits evenly and adds noise that sums to zero over the copies: exact",
    "zero_out": "new units are random and are read with zero: exact",
    "rms": "W′ = W[π]·√(d_in / d_in′): keeps the scale of activations, not the function",
    "perturb": "uneven, then 0.4·θ + 0.1·θ₀ of fresh θ₀, and moments anew: not the function",
}
DEPTH = {
    "identity": "new blocks add nothing to the residual stream at first: exact",
    "stack": "the whole sequence of blocks again on top of itself",
    "interpose": "each new block beside the block that it copies",
    "middle": "the blocks of the middle again",
    "last": "the last block again",
    "groups": "key and value heads alone, each with a part of the queries of the old one: exact",
    "experts": "every expert of a mixture is the dense layer: exact where gates sum to 1",
}
ALIASES = {"preserve": ("uneven", "identity"), "interpolate": ("interpose",)}
EXACT = frozenset({"uneven", "even", "noise", "zero_out", "identity", "groups"})


@dataclasses.dataclass(frozen=True)
class Operator:
    """How width and depth grow.

    Attributes:
      width: a key of `WIDTH`.
      depth: a key of `DEPTH`.
      names: for "experts", (path in the mixture, path in the dense model) where they are not found.

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
        """Whether the grown model computes the same function."""
        return self.width in EXACT and self.depth in EXACT

    def __str__(self) -> str:
        return "preserve" if self == Operator() else f"{self.width}+{self.depth}"


def operator(how: str | Operator) -> Operator:
    """The operator of a name.

    Raises:
      ValueError: an unknown name, or two for the same axis; the message lists those there are.

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
