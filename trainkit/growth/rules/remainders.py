"""Rules for remainders by n that are remainders by m·n in the big model; see `values.Remainder`.

(i mod m·n) mod n = i mod n, so a table of m·n rows that repeats its n old rows gives the same row.
A remainder may be moved, its divisor may be added where it is negative (as `%` does), and it may be
looked up in such a table.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Remainder, Value
from trainkit.growth.axes.axis import find
from trainkit.growth.rules import elementwise, indexing, rows
from trainkit.growth.rules.elementwise import whole_numbers


def refuse(
    pair: EquationPair, why: str = "uses remainders as numbers", hint: str | None = None
) -> NoReturn:
    (n, m), *_ = [v.choice.by for v in pair.ins if isinstance(v.choice, Remainder)]
    pair.fail(
        f"`{pair.name}` {why}, and they are taken by {n} in the small model and by {m} in the big "
        "one: the same number has another one there",
        axes=[a for v in pair.ins for a in v.axes if not find(a).fixed],
        hint=hint
        or f"use ids % rows as an index into a table of {n} → {m} rows and for nothing else, or "
        "take remainders by the same number in both",
    )


def _remainder(pair: EquationPair, i: int = 0) -> Remainder:
    """The remainder that an operand is."""
    found = pair.ins[i].choice
    if not isinstance(found, Remainder) or found.of is not None:
        refuse(pair)
    return found


def _with_number(pair: EquationPair) -> tuple[int, Remainder, tuple[int, int]]:
    """The operand that is a remainder or a test of one, and the numbers that the other one is."""
    found = [(i, v.choice) for i, v in enumerate(pair.ins) if isinstance(v.choice, Remainder)]
    i, known = found[0]
    numbers = None if len(found) > 1 else whole_numbers(pair.ins[1 - i])
    if numbers is None:
        refuse(pair)
    return i, known, numbers


def move_axes(pair: EquationPair) -> None:
    known = _remainder(pair)
    if any(v.choice is not None for v in pair.ins[1:]):
        refuse(pair)
    pair.analysis.rules[pair.name].axes(pair)
    for out in pair.outs:
        out.choice = known


def plain_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    """The usual rule: in what it says of copies, a remainder is one."""
    pair.analysis.rules[pair.name].scales(scales, pair)


def made_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for out in pair.outs:
        scales.plain(out)


def convert_axes(pair: EquationPair) -> None:
    """A dtype that holds all remainders."""
    known = _remainder(pair)
    low = 1 - known.by[1] if known.form == "signed" else 0
    for dtype in pair.both("new_dtype"):
        if not np.issubdtype(dtype, np.integer):
            refuse(pair)
        if np.iinfo(dtype).min > low or np.iinfo(dtype).max < known.by[1] - 1:
            refuse(pair, f"takes remainders to {np.dtype(dtype).name}, which does not hold all")
    move_axes(pair)


def add_axes(pair: EquationPair) -> None:
    """The divisor is added, for `select_axes`."""
    i, known, numbers = _with_number(pair)
    if numbers != known.by or known.of is not None:
        refuse(pair)
    elementwise.axes(pair)
    pair.outs[0].choice = Remainder(numbers, "raised", pair.ins[i])


def less_axes(pair: EquationPair) -> None:
    """Whether a remainder is negative."""
    i, known, numbers = _with_number(pair)
    if known.of is not None or numbers != (0, 0) or pair.name != ("gt" if i else "lt"):
        refuse(pair, "compares remainders")
    elementwise.axes(pair)
    pair.outs[0].choice = Remainder(known.by, "negative", pair.ins[i])


def unequal_axes(pair: EquationPair) -> None:
    """Whether a remainder is not 0; a test of one is compared with False."""
    i, known, numbers = _with_number(pair)
    if numbers != (0, 0) or known.form == "raised":
        refuse(pair, "compares remainders")
    elementwise.axes(pair)
    is_test = known.form in ("negative", "not zero")
    pair.outs[0].choice = known if is_test else Remainder(known.by, "not zero", pair.ins[i])


def and_axes(pair: EquationPair) -> None:
    """A remainder is negative, and it is not 0."""
    tests = [v.choice for v in pair.ins if isinstance(v.choice, Remainder)]
    negative = [t for t in tests if t.form == "negative"]
    if len(tests) < len(pair.ins) or not negative or any(t.of is not tests[0].of for t in tests):
        refuse(pair)
    elementwise.axes(pair)
    pair.outs[0].choice = negative[0]


def select_axes(pair: EquationPair) -> None:
    """Selects among remainders; or v, and v + n where v is negative, which is not negative then."""
    test, *cases = pair.ins
    if isinstance(test.choice, Remainder):
        by, form, of = test.choice
        raised = cases[-1].choice == Remainder(by, "raised", of)
        if form != "negative" or len(cases) != 2 or cases[0] is not of or not raised:
            refuse(pair)
        elementwise.axes(pair)
        pair.outs[0].choice = Remainder(by, "inside")
        return
    _together(pair, cases)


def join_axes(pair: EquationPair) -> None:
    _together(pair, pair.ins)


def _together(pair: EquationPair, parts: list[Value]) -> None:
    """The result has elements of several operands: remainders, or one number in both programs."""
    found = [v.choice for v in parts if isinstance(v.choice, Remainder)]
    if len({c.by for c in found}) != 1 or any(c.of is not None for c in found):
        refuse(pair, "mixes remainders")
    for v in parts:
        number = (0, -1) if v.choice is not None else whole_numbers(v)
        if number is None or (
            v.choice is None and not 0 <= number[0] == number[1] < found[0].by[0]
        ):
            refuse(pair, "mixes remainders with other numbers")
    pair.analysis.rules[pair.name].axes(pair)
    signed = any(c.form == "signed" for c in found)
    pair.outs[0].choice = Remainder(found[0].by, "signed" if signed else "inside")


def gather_axes(pair: EquationPair) -> None:
    x = pair.ins[0]
    known, n = _remainder(pair, 1), pair.params["dimension_numbers"]
    if x.choice is not None:
        refuse(pair)
    if len(n.start_index_map) != 1:
        refuse(pair, "has an index of several components with a remainder")
    (d,) = n.start_index_map
    if d not in n.collapsed_slice_dims:
        refuse(pair, "takes a range that begins at a remainder")
    axis = find(x.axes[d])
    if (axis.small, axis.big) != known.by:
        refuse(pair, f"looks remainders up among {axis.small} → {axis.big} rows")
    if known.form == "signed":
        hint = f"use % in place of lax.rem: ids % {known.by[0]} is not negative"
        refuse(pair, "looks remainders up that may be negative", hint)
    indexing.gather_axes(pair, layout="tile", inside=True)


def gather_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    rows.copied(scales, pair)
    indexing.gather_scales(scales, pair)


RULES: dict[str, Rule] = {
    **{
        name: Rule(move_axes, plain_scales)
        for name in ("transpose", "broadcast_in_dim", "squeeze", "reshape", "copy", "rev",
                     "stop_gradient", "slice", "dynamic_slice", "split", "tile")
    },
    "convert_element_type": Rule(convert_axes, plain_scales),
    **{name: Rule(join_axes, plain_scales) for name in ("concatenate", "stack")},
    "add": Rule(add_axes, made_scales),
    **{name: Rule(less_axes, made_scales) for name in ("lt", "gt")},
    "ne": Rule(unequal_axes, made_scales),
    "and": Rule(and_axes, made_scales),
    "select_n": Rule(select_axes, plain_scales),
    "gather": Rule(gather_axes, gather_scales),
}  # fmt: skip


def rule(pair: EquationPair) -> Rule:
    """The rule of an equation with an operand that is a remainder, or a test of one."""
    found = RULES.get(pair.name)
    if found is None or any(v.choice and not isinstance(v.choice, Remainder) for v in pair.ins):
        refuse(pair)
    return found
