"""The faults of one expression: (kind, edit) for each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from tools.faults.exclusions import called
from tools.faults.source import Edit, Source

Faults = Iterator[tuple[str, Edit]]
Part = ast.expr | ast.keyword | ast.comprehension
# Binary operator -> its text, and its replacement. All but ± can also be removed.
OPERATORS: dict[type[ast.operator], tuple[str, str | None]] = {
    ast.Mult: ("*", None),
    ast.MatMult: ("@", None),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", None),
    ast.Pow: ("**", None),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}
BOTH_SIDES = (ast.Mult, ast.MatMult)  # either operand may be removed
SEQUENCES = (ast.List, ast.Tuple, ast.ListComp, ast.Set, ast.Dict)
LIMITS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
}
OPPOSITES: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
}
PAIRS = [("min", "max"), ("any", "all"), ("minimum", "maximum"), ("argmin", "argmax")]
SWAPPED = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
DROPPED_CALLS = ("sqrt", "rsqrt", "square", "abs")


def of_expression(source: Source, node: Part) -> Faults:
    match node:
        case ast.BoolOp():
            yield from _operands(source, node)
        case ast.UnaryOp(op=ast.Not()):
            start, end = source.span(node)
            yield "condition", Edit(start, start + len("not"), "")
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(n))):
            yield "off by one", _becomes(source, node, f"-{n + 1}")
            yield "off by one", _becomes(source, node, f"-{n - 1}" if n > 1 else "0")
        case ast.IfExp(test=test):
            yield "branches", negated(source, test)
            yield from condition(source, test, (True, False))
        case ast.comprehension(ifs=tests):
            for test in tests:
                yield from condition(source, test, (True,))
        case ast.Compare():
            yield from _comparisons(source, node)
        case ast.BinOp():
            yield from _arithmetic(source, node)
        case ast.Constant(value=value) if not isinstance(value, bool):
            yield from _number(source, node, value)
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):
                if bound and not _is_number(bound):
                    yield "off by one", _becomes(source, bound, f"({source.text(bound)}) + 1")
        case ast.Call():
            yield from _call(source, node)
        case ast.Name(id=name, ctx=ast.Load()) if name in SWAPPED:
            yield "comparison", _becomes(source, node, SWAPPED[name])
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in SWAPPED:
            end = source.span(node)[1]
            yield "comparison", Edit(end - len(name), end, SWAPPED[name])


def negated(source: Source, test: ast.expr) -> Edit:
    return _becomes(source, test, f"not ({source.text(test)})")


def condition(source: Source, test: ast.expr, values: Sequence[bool]) -> Faults:
    if not isinstance(test, ast.Constant):
        yield from (("condition", _becomes(source, test, str(value))) for value in values)


def _becomes(source: Source, node: ast.AST, text: str) -> Edit:
    return Edit(*source.span(node), text)


def _between(source: Source, left: ast.expr, right: ast.expr, written: str) -> tuple[int, int]:
    found = source.find(written, source.span(left)[1], source.span(right)[0])
    assert found, f"{source.file}:{left.end_lineno}: no {written!r} between two operands"
    return found


def _operands(source: Source, node: ast.BoolOp) -> Faults:
    """Removes one operand of and/or."""
    written = "and" if isinstance(node.op, ast.And) else "or"
    start, end = source.span(node)
    pairs = zip(node.values, node.values[1:], strict=False)
    signs = [_between(source, a, b, written) for a, b in pairs]
    yield "condition", Edit(start, signs[0][1], "")
    for i, sign in enumerate(signs):
        yield "condition", Edit(sign[0], signs[i + 1][0] if i + 1 < len(signs) else end, "")


def _comparisons(source: Source, node: ast.Compare) -> Faults:
    sides = [node.left, *node.comparators]
    for op, a, b in zip(node.ops, sides, sides[1:], strict=False):
        for kind, table in (("off by one", LIMITS), ("comparison", OPPOSITES)):
            if type(op) in table:
                written, other = table[type(op)]
                yield kind, Edit(*_between(source, a, b, written), other)


def _arithmetic(source: Source, node: ast.BinOp) -> Faults:
    if type(node.op) not in OPERATORS or any(_is_text(n) for n in (node.left, node.right)):
        return
    written, other = OPERATORS[type(node.op)]
    start, end = source.span(node)
    sign = _between(source, node.left, node.right, re.escape(written))
    sequences = any(isinstance(n, SEQUENCES) for n in (node.left, node.right))
    if other and not sequences:
        yield "factor", Edit(*sign, other)
    yield "factor", Edit(sign[0], end, "")
    if isinstance(node.op, BOTH_SIDES):
        yield "factor", Edit(start, sign[1], "")


def _number(source: Source, node: ast.Constant, value: object) -> Faults:
    match value:
        case int():
            yield "off by one", _becomes(source, node, str(value + 1))
            if value > 0:
                yield "off by one", _becomes(source, node, str(value - 1))
        case float():
            yield "factor", _becomes(source, node, repr(2 * value or 1.0))


def _call(source: Source, node: ast.Call) -> Faults:
    if called(node) in DROPPED_CALLS and len(node.args) == 1 and not node.keywords:
        yield "factor", _becomes(source, node, f"({source.text(node.args[0])})")
    if called(node) == "range" and not _is_number(node.args[:2][-1]):
        stop = node.args[:2][-1]
        yield "off by one", _becomes(source, stop, f"({source.text(stop)}) - 1")
    parts = sorted([*node.args, *node.keywords], key=source.span)
    for i, part in enumerate(parts):
        if isinstance(part, ast.keyword) and part.arg:
            start, end = source.span(part)
            after = source.span(parts[i + 1])[0] if i + 1 < len(parts) else source.span(node)[1]
            comma = source.find(",", end, after)
            yield "keyword", Edit(start, comma[1] if comma else end, "")


def _is_number(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
