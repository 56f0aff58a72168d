"""Rules for symbols that have other numbers in the big model; see `analysis.values.Renamed`.

A symbol v is a whole number with 0 ≤ v < n, and its new number is places[v]. It may be moved,
looked up in tables, whose rows move to the same places, and compared, if every comparison has the
same answer for the new numbers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from jax.lax import GatherScatterMode

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.padding import ALWAYS
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Renamed, Value
from trainkit.growth.axes.axis import find
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.ir.constants import Const
from trainkit.growth.rules import control, elementwise, indexing

_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}


def refuse(pair: EquationPair, why: str = "uses symbols as numbers") -> NoReturn:
    pair.fail(
        f"`{pair.name}` {why}, and symbols have other numbers in the big model (NewInputs.symbols)",
        hint="look symbols up in a table, or compare them with their own number in each model",
    )


def _renamed(pair: EquationPair) -> tuple[int, ...] | None:
    """The map of the operands that are symbols; refuses if there are two."""
    found = {v.choice.places for v in pair.ins if isinstance(v.choice, Renamed)}
    if len(found) != 1:
        refuse(pair, "combines symbols of two inputs")
    return found.pop()


def _numbers(v: Value) -> tuple[Any, Any] | None:
    """The numbers of a uniform constant in both programs, or `None`."""
    if v.const is None or any(c.uniform is None for c in v.const):
        return None
    return v.const[0].uniform, v.const[1].uniform


def move_axes(pair: EquationPair) -> None:
    """Every result holds symbols, and every operand with elements does."""
    places = _renamed(pair)
    if pair.name in ("concatenate", "select_n"):
        cases = pair.ins[pair.name == "select_n" :]
        if any(v.choice is None for v in cases):
            refuse(pair, "mixes symbols with other numbers")
    elif any(v.choice is not None for v in pair.ins[1:]):
        refuse(pair)
    pair.analysis.rules[pair.name].axes(pair)
    for out in pair.outs:
        out.choice = Renamed(places)


def convert_axes(pair: EquationPair) -> None:
    if not np.issubdtype(pair.params["new_dtype"], np.integer):
        refuse(pair)
    move_axes(pair)


def shift_axes(pair: EquationPair) -> None:
    """v + n, which is selected only if v is negative: never."""
    elementwise.axes(pair)
    pair.outs[0].choice = Renamed(None)


def select_axes(pair: EquationPair) -> None:
    """Selects v, or v + n if v is negative."""
    test, *cases = pair.ins
    known = _numbers(test)
    if known is None or known[0] != known[1]:
        return move_axes(pair)
    chosen = cases[int(known[0])].choice
    elementwise.axes(pair)
    pair.outs[0].choice = chosen
    return None


def bound_axes(pair: EquationPair) -> None:
    """max, min, clamp: symbols within the bounds do not change."""
    places, i = _renamed(pair), 1 if pair.name == "clamp" else 0
    if pair.ins[i].choice is None:
        i = 1 - i
    bounds = [known for j, v in enumerate(pair.ins) if j != i and (known := _numbers(v))]
    if places is None or pair.ins[i].choice is None or len(bounds) < len(pair.ins) - 1:
        refuse(pair, "bounds symbols")
    low, high = {"max": (0, None), "min": (None, 0), "clamp": (0, 1)}[pair.name]
    for which, numbers in enumerate((range(len(places)), places)):
        for v in numbers:
            below = low is not None and v < bounds[low][which]
            if below or (high is not None and v > bounds[high][which]):
                refuse(pair, f"bounds symbols, and changes {v}")
    elementwise.axes(pair)
    pair.outs[0].choice = Renamed(places)


def compare_axes(pair: EquationPair) -> None:
    """Compares symbols with a number, with the numbers of a table's rows, or with each other."""
    places = _renamed(pair)
    if places is None:
        refuse(pair)
    (i, other) = next(((i, v) for i, v in enumerate(pair.ins) if v.choice is None), (1, None))
    if other is None:
        if pair.name not in ("eq", "ne"):
            refuse(pair, "orders symbols")
        return elementwise.axes(pair)
    known = _numbers(other)
    if known is not None:
        one = _COMPARED[pair.name]
        answers = [
            tuple(one(*((v, c) if i else (c, v))) for v, c in ((v, known[0]), (w, known[1])))
            for v, w in enumerate(places)
        ]
        if any(bool(a) != bool(b) for a, b in answers):
            refuse(pair, f"compares symbols with {known[0]} in the small model and {known[1]}")
        elementwise.axes(pair)
        if len({bool(a) for a, _ in answers}) == 1 and all(
            find(a).fixed for a in pair.outs[0].axes
        ):
            _settle(pair, bool(answers[0][0]))
        return None
    return _one_hot(pair, other, places)


def _settle(pair: EquationPair, answer: bool) -> None:
    """Notes that a comparison has one answer for all symbols, in both programs."""
    out = pair.outs[0]
    known = functools.partial(Const, dtype=out.dtype, key=("answer", answer), thunk=lambda: answer)
    out.const = known(out.small, uniform=answer), known(out.big, uniform=answer)


def _one_hot(pair: EquationPair, other: Value, places: tuple[int, ...]) -> None:
    """Symbols are compared with the numbers 0, 1, 2, … along an axis: its old units move."""
    d = _counted(other)
    if d is None or pair.name not in ("eq", "ne"):
        refuse(pair, "compares symbols with numbers that are not 0, 1, 2, …")
    axis = find(other.axes[d])
    _fits(pair, axis, places)
    other.choice = Renamed(places)
    elementwise.axes(pair)
    pair.notes["one_hot"] = d if pair.name == "eq" else None


def _counted(v: Value) -> int | None:
    """The dimension along which a constant is 0, 1, 2, …, or `None`."""
    if v.const is None:
        return None
    for d in range(len(v.axes)):
        shape = [-1 if e == d else 1 for e in range(len(v.axes))]
        counts = (np.arange(c.shape[d]).reshape(shape) for c in v.const)
        if all(
            c.core_shape[d] == c.shape[d]
            and np.array_equal(c.core, np.broadcast_to(count, c.core_shape))
            for c, count in zip(v.const, counts, strict=True)
        ):
            return d
    return None


def _fits(pair: EquationPair, axis: Any, places: tuple[int, ...]) -> None:
    """Requests the places of symbols for the axis that they count."""
    n, m = axis.small, axis.big
    if n == m:
        if places != tuple(range(n)):
            pair.fail(
                f"symbols have new numbers, but the {n} rows that they are looked up in do not "
                "grow",
                axes=(axis,),
                hint="give the big model rows for its new symbols in this table too",
            )
        return
    if len(places) != n or any(place >= m for place in places):
        pair.fail(
            f"symbols are looked up among {n} → {m} rows, and NewInputs.symbols gives new numbers "
            f"0 to {max(places, default=-1)} to {len(places)} old ones",
            axes=(axis,),
            hint=f"give the new number of each of the {n} old symbols, below {m}",
        )
    pair.analysis.force(axis, places, pair)


def gather_axes(pair: EquationPair) -> None:
    x, index = pair.ins
    n = pair.params["dimension_numbers"]
    if x.choice is not None or not isinstance(index.choice, Renamed):
        if index.choice is not None:
            refuse(pair)
        return move_axes(pair)  # symbols are picked by position
    if index.choice.places is None:
        refuse(pair)
    if len(n.start_index_map) != 1:
        refuse(pair, "has an index of several components with a symbol")
    (d,) = n.start_index_map
    if d not in n.collapsed_slice_dims:
        refuse(pair, "takes a range that begins at a symbol")
    _fits(pair, find(x.axes[d]), index.choice.places)
    return indexing.gather_axes(pair, layout=index.choice.places)


def gather_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    if pair.outs[0].choice is not None:
        return plain_scales(scales, pair)
    if pair.params["mode"] != GatherScatterMode.CLIP:
        scales.refuse_padding(pair, pair.ins[1])  # an out-of-bounds row is NaN
    return indexing.gather_scales(scales, pair)


def branch_axes(pair: EquationPair) -> None:
    if pair.ins[0].choice is not None:
        refuse(pair, "chooses a branch by a symbol")
    control.cond_axes(pair)


def plain_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        if v.choice is None and v.const is None:
            scales.pin(pair, v)
    for v in pair.outs:
        scales.plain(v)


def compare_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    """A one-hot encoding is 0 in the new units, because old symbols have no new number."""
    plain_scales(scales, pair)
    d, out = pair.notes.get("one_hot"), pair.outs[0]
    if d is not None:
        for v in pair.ins:
            scales.refuse_padding(pair, v, [e for e in range(len(v.axes)) if e != d])
        own = {leaf.uid for leaf in grown_leaves(out.axes[d])}
        out.zeros = {key: ALWAYS for key in scales.padding(out) if key[0] == d and key[1] in own}


RULES: dict[str, Rule] = {
    **{
        name: Rule(move_axes, plain_scales)
        for name in ("transpose", "broadcast_in_dim", "squeeze", "reshape", "copy", "rev",
                     "stop_gradient", "slice", "concatenate", "dynamic_slice", "split")
    },
    "convert_element_type": Rule(convert_axes, plain_scales),
    **{name: Rule(shift_axes, plain_scales) for name in ("add", "sub")},
    "select_n": Rule(select_axes, plain_scales),
    **{name: Rule(bound_axes, plain_scales) for name in ("max", "min", "clamp")},
    **{name: Rule(compare_axes, compare_scales) for name in _COMPARED},
    "gather": Rule(gather_axes, gather_scales),
    "scan": control.RULES["scan"],
    "while": control.RULES["while"],
    "cond": Rule(branch_axes, control.cond_scales),
}  # fmt: skip


def rule(pair: EquationPair) -> Rule:
    """The rule of an equation with an operand that holds symbols."""
    found = RULES.get(pair.name)
    if found is None or any(v.choice and not isinstance(v.choice, Renamed) for v in pair.ins):
        refuse(pair)
    return found
