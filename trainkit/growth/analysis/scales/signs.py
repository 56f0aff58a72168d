"""Which values are positive whatever the parameters: what may be divided by in units that hold
nothing. A softmax over places is fine there, for example, and a norm with its ε."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.values import Value

UNKNOWN, NOT_NEGATIVE, POSITIVE = 0, 1, 2

_SAME = {
    "reshape", "transpose", "squeeze", "broadcast_in_dim", "convert_element_type",
    "stop_gradient", "reduce_sum", "reduce_max", "reduce_min", "sqrt", "slice",
}  # fmt: skip


def sign(value: Value) -> int:
    """What is known of every element in exact arithmetic."""
    if value.const is None:
        return value.sign
    if value.const[0].uniform is None or value.const[1].uniform is None:
        return UNKNOWN
    low = min(np.real(c.uniform) for c in value.const)
    return POSITIVE if low > 0 else NOT_NEGATIVE if low == 0 else UNKNOWN


def of_result(pair: EquationPair) -> int:
    """The sign of an equation's result from those of its operands."""
    name, known = pair.name, [sign(v) for v in pair.ins]
    if name in ("exp", "exp2", "logistic"):
        return POSITIVE
    if name in ("square", "abs") or (name == "integer_pow" and pair.params["y"] % 2 == 0):
        return NOT_NEGATIVE
    if name in ("mul", "div"):
        if name == "mul" and pair.ins[0] is pair.ins[1]:
            return max(NOT_NEGATIVE, known[0])
        return min(known)
    if name == "add" and min(known) >= NOT_NEGATIVE:
        return max(known)
    if name == "max":
        return max(known)
    if name == "rsqrt" and known[0] == POSITIVE:
        return POSITIVE
    return known[0] if name in _SAME else UNKNOWN
