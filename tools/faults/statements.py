"""The faults of one statement, those of its expressions aside: (kind, edit) for each."""

from __future__ import annotations

import ast

from tools.faults.exclusions import Function, Words
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


def of_statement(source: Source, node: ast.stmt, function: Function | None, words: Words) -> Faults:
    """`function` is what the statement is in."""
    match node:
        case ast.If(test=test, body=body, orelse=orelse):
            if orelse:
                yield "branches", negated(source, test)
            # A refusal that always comes is no test of the tests.
            refuses = words.refuses(body[-1])
            yield from condition(source, test, (False,) if refuses else (True, False))
        case ast.While(test=test):
            yield from condition(source, test, (False,))
        case ast.Return():
            yield from _returned(source, node, function, words)
    if _has_effect(node) or words.refuses(node):
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
    """Whether it can be left out, and the names that later statements read are still there."""
    match node:
        case ast.Expr(value=value):
            return isinstance(value, ast.Call)
        case ast.Assign(targets=targets):
            return all(isinstance(target, ast.Subscript | ast.Attribute) for target in targets)
    return isinstance(node, ast.AugAssign | ast.Delete | ast.Continue | ast.Break)


def _returned(source: Source, node: ast.Return, function: Function | None, words: Words) -> Faults:
    value = node.value
    if value is None or words.is_error(value):
        return
    annotation = function.returns if function else None
    returns = ast.unparse(annotation) if annotation else ""
    if isinstance(value, ast.Constant):
        if isinstance(value.value, bool):
            yield "returned", Edit(*source.span(value), str(not value.value))
    elif returns == "bool":
        yield "returned", negated(source, value)
    # Where `None` is no result that callers know, it ends in a crash at once.
    if "None" in returns and ast.unparse(value) != "None":
        yield "returned", Edit(*source.span(value), "None")
