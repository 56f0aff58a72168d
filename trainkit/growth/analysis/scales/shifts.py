"""Parameters that are used as w + s alone, such as a norm's 1 + w: what scales is the sum."""

from __future__ import annotations

from trainkit.growth.analysis.joint_program import EquationPair, JointProgram, Value
from trainkit.growth.ir.program import scan_counts

_FORWARD = {
    "reshape", "transpose", "squeeze", "broadcast_in_dim", "convert_element_type", "stop_gradient",
}  # fmt: skip


def shiftable(joint: JointProgram) -> dict[int, float]:
    """Parameters of which every use is `w + s` with one constant s."""
    origin = {id(v): i for i, v in enumerate(joint.values[: len(joint.analysis.params)])}
    shifts: dict[int, set[float | None]] = {}

    def given_back(values: list[Value]) -> None:
        for v in values:
            if id(v) in origin:
                shifts.setdefault(origin[id(v)], set()).add(None)

    def visit(equations: list[EquationPair]) -> None:
        for pair in equations:
            if pair.name == "scan":
                consts, carried = scan_counts(pair.params)
                skip = consts + carried
                for outer, inner in zip(pair.ins[skip:], pair.bodies[0].ins[skip:], strict=True):
                    if id(outer) in origin:
                        origin[id(inner)] = origin[id(outer)]
                for v in pair.ins[consts:skip]:
                    if id(v) in origin:
                        shifts.setdefault(origin[id(v)], set()).add(None)
            for body in pair.bodies:
                visit(body.equations)
                given_back(body.outs)
            if pair.bodies:
                if pair.name != "scan":
                    for v in pair.ins:
                        if id(v) in origin:
                            shifts.setdefault(origin[id(v)], set()).add(None)
                continue
            for k, v in enumerate(pair.ins):
                if id(v) not in origin:
                    continue
                i = origin[id(v)]
                if pair.name in _FORWARD:
                    origin[id(pair.outs[0])] = i
                    continue
                shift = None
                if pair.name == "add":
                    const = pair.ins[1 - k].const
                    if const and const[0].uniform is not None and const[1].uniform is not None:
                        a, b = float(const[0].uniform), float(const[1].uniform)
                        shift = a if a == b != 0.0 else None
                shifts.setdefault(i, set()).add(shift)

    visit(joint.pairs)
    given_back(joint.outs)
    agreed = ((i, next(iter(s))) for i, s in shifts.items() if len(s) == 1)
    return {i: shift for i, shift in agreed if shift is not None}
