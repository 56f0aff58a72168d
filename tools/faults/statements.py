"""The faults of one statement, without those of its expressions: (kind, edit) for each."""

from __future__ import annotations

import ast

from tools.faults.exclusions import ErrorCode, Function
from tools.faults.expressions import Faults, condition, negated
from tools.faults.source import Edit, Source

OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+=", "-="),
    ast.Sub: ("-=", "+="),
    ast.Mult: ("*=", "/="),
    ast.Div: ("/=", "*="),
    ast.BitOr: ("|=", "&="),
    ast.BitAnd: ("&=", "|="),
}


def of_statement(
    source: Source, node: ast.stmt, function: Function | None, error_code: ErrorCode
) -> Faults:
    """(kind, edit) for each fault; `function` is the enclosing function."""
    match node:
        case ast.If(test=test, body=body, orelse=orelse):
            if orelse:
                yield "branches", negated(source, test)
            # An error that is always raised is too easy to detect.
            refuses = error_code.refuses(body[-1])
            yield from condition(source, test, (False,) if refuses else (True, False))
        case ast.While(test=test):
            yield from condition(source, test, (False,))
        case ast.Return():
            yield from _returned(source, node, function, error_code)
    if _has_effect(node) or error_code.refuses(node):
        yield "statement", Edit(*source.span(node), "pass")
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        written, other = OPERATORS[type(node.op)]
        sign = source.find(
            "".join(f"[{c}]" for c in written),
            source.span(node.target)[1],
            source.span(node.value)[0],
        )
        assert sign
        yield "factor", Edit(*sign, other)


def _has_effect(node: ast.stmt) -> bool:
    """Whether a statement can be removed without leaving later names undefined."""
    match node:
        case ast.Expr(value=value):
            return isinstance(value, ast.Call)
        case ast.Assign(targets=targets):
            return all(isinstance(target, ast.Subscript | ast.Attribute) for target in targets)
    return isinstance(node, ast.AugAssign | ast.Delete | ast.Continue | ast.Break)


def _returned(
    source: Source, node: ast.Return, function: Function | None, error_code: ErrorCode
) -> Faults:
    value = node.value
    if value is None or error_code.is_error(value):
        return
    annotation = function.returns if function else None
    returns = ast.unparse(annotation) if annotation else ""
    if isinstance(value, ast.Constant):
        if isinstance(value.value, bool):
            yield "returned", Edit(*source.span(value), str(not value.value))
    elif returns == "bool":
        yield "returned", negated(source, value)
    # Only for functions that may return `None`: otherwise callers crash at once.
    if "None" in returns and ast.unparse(value) != "None":
        yield "returned", Edit(*source.span(value), "None")
