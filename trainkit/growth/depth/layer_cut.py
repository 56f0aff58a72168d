"""The big program without its new layers, for new layers that copy old ones.

Such layers change the function, so only the growth of widths is proved. Layers are traced one after
another, so a new layer is a range of consecutive equations. The range is the one without which the
program is, equation for equation, the small model's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Program


def cut_layers(
    small: Program, big: Program, old: Mapping[int, int], new: Collection[int], parameters: int
) -> Program | None:
    """`big` without the equations of new layers, connected like `small`; `None` if impossible.

    Args:
      small, big: flat programs.
      old: number of an input of `small` -> that of `big`.
      new: numbers of the inputs of `big` that are parameters of new layers.
      parameters: how many of the first inputs of `small` are parameters.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> def net(*args):
    ...     *layers, x = args
    ...     for w in layers:
    ...         x = jnp.tanh(x @ w)
    ...     return x
    >>> w = jnp.ones((2, 2))
    >>> one, two = (Folder().flatten(jax.make_jaxpr(net)(*[w] * n)) for n in (2, 3))
    >>> [eqn.name for eqn in cut_layers(one, two, {0: 1, 1: 2}, {0}, 1).equations]
    ['dot_general', 'tanh']
    """
    fresh = {id(big.ins[i]) for i in new}
    marks = [i for i, eqn in enumerate(big.equations) if any(id(v) in fresh for v in eqn.ins)]
    if not marks or len(small.equations) >= len(big.equations):
        return None
    anchors = {i: j for i, j in old.items() if i < parameters}
    cuts = _cuts(small, big, anchors, marks)
    if cuts is None:
        return None
    return _without(small, big, old, cuts)


def without_passes(small: Program, big: Program, parameters: int) -> Program | None:
    """`big` without further passes over weights that both programs use; `None` if impossible.

    Args:
      small, big: flat programs with the same inputs, at two sizes.
      parameters: how many of the first inputs are parameters.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> def net(passes):
    ...     def fn(w, x):
    ...         for _ in range(passes):
    ...             x = jnp.tanh(x @ w)
    ...         return x
    ...     return fn
    >>> w = jnp.ones((2, 2))
    >>> two, three = (Folder().flatten(jax.make_jaxpr(net(n))(w, w)) for n in (2, 3))
    >>> [eqn.name for eqn in without_passes(two, three, 1).equations]
    ['dot_general', 'tanh', 'dot_general', 'tanh']
    """
    mine, theirs = (_anchored(program, range(parameters)) for program in (small, big))
    more = len(theirs) - len(mine)
    if more <= 0:
        return None
    for start in range(_alike(mine, theirs, 0, 0, len(theirs)), -1, -1):
        if mine[start:] == theirs[start + more :]:
            same = {i: i for i in range(len(small.ins))}
            return _without(small, big, same, [(start, start + more)])
    return None


def _without(
    small: Program, big: Program, old: Mapping[int, int], cuts: list[tuple[int, int]]
) -> Program:
    """`big` without some ranges of equations, connected like `small`."""
    removed = {i for start, end in cuts for i in range(start, end)}
    kept = [eqn for i, eqn in enumerate(big.equations) if i not in removed]
    inside = {id(v) for i in removed for v in big.equations[i].outs}
    # Variable of the small program -> variable of the big one.
    now: dict[int, Any] = {id(small.ins[i]): big.ins[j] for i, j in old.items()}

    def wired(mine: Any, theirs: Any) -> Any:
        if isinstance(mine, Const) or isinstance(theirs, Const):
            return theirs
        # Equations after a cut use the values before it.
        return now[id(mine)] if id(theirs) in inside else theirs

    equations = []
    for mine, theirs in zip(small.equations, kept, strict=True):
        ins = [wired(a, b) for a, b in zip(mine.ins, theirs.ins, strict=True)]
        equations.append(Equation(theirs.raw, ins, theirs.outs, theirs.calls))
        now |= {id(a): b for a, b in zip(mine.outs, theirs.outs, strict=True)}
    outs = [wired(a, b) for a, b in zip(small.outs, big.outs, strict=True)]
    return Program(big.ins, equations, outs)


def _cuts(
    small: Program, big: Program, old: Mapping[int, int], marks: list[int]
) -> list[tuple[int, int]] | None:
    """Ranges of equations to remove, which contain all uses of new parameters (`marks`)."""
    mine, theirs = _anchored(small, old.keys()), _anchored(big, old.values())
    mine = [(name, tuple(old[i] for i in places)) for name, places in mine]
    cuts: list[tuple[int, int]] = []
    at = place = 0  # in small, in big
    while place < len(theirs):
        ahead = [m for m in marks if m >= place]
        if not ahead:
            return cuts if mine[at:] == theirs[place:] else None
        first = ahead[0]
        cut = _next_cut(mine, theirs, at, place, ahead, first)
        if cut is None:
            return None
        start, end = cut
        at, place = at + start - place, end
        cuts.append((start, end))
    return cuts if at == len(mine) else None


def _next_cut(mine, theirs, at: int, place: int, marks: list[int], first: int):
    """The next range. It starts at or before the first mark. After it, both programs agree until
    the next mark outside the range."""
    front = _alike(mine, theirs, at, place, first)
    best = None
    for start in range(place + front, place - 1, -1):
        spare = len(theirs) - place - (len(mine) - at)
        for end in range(first + 1, start + spare + 1):
            after = at + start - place
            stop = next((m for m in marks if m >= end), len(theirs))
            # Compare up to the next mark: equations before it belong to old layers.
            length = _alike(mine, theirs, after, end, stop)
            whole = stop == len(theirs) and length == stop - end and after + length == len(mine)
            if whole:
                return start, end
            if stop < len(theirs) and (best is None or after + length > best[0]):
                best = (after + length, start, end)
    return None if best is None else best[1:]


def _alike(mine, theirs, i: int, j: int, stop: int) -> int:
    length = 0
    while j + length < stop and i + length < len(mine) and mine[i + length] == theirs[j + length]:
        length += 1
    return length


def _anchored(program: Program, places: Collection[int]) -> list[tuple[str, tuple[int, ...]]]:
    """For each equation its name and the old parameters among its operands."""
    number = {id(program.ins[i]): i for i in places}
    return [
        (f"{eqn.name} {len(eqn.ins)}", tuple(number[id(v)] for v in eqn.ins if id(v) in number))
        for eqn in program.equations
    ]
