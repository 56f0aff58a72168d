"""The code that is not mutated: types, strings, and code that only builds error messages.

Code for error messages is: what is inside a `raise`; an argument of an error class or of a function
that always raises; an assignment to a name that only such code reads; or a function that only such
code calls. Whether an error is raised is mutated: the `raise`, a call that raises, its condition.
"""

from __future__ import annotations

import ast
import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from tools.faults.source import Source, Span

Read = tuple[str, int]  # a name, and where it is read
Function = ast.FunctionDef | ast.AsyncFunctionDef
NOT_RUN = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")


class Spans:
    """Intervals of bytes in a file; `in` tests whether a position is inside one."""

    def __init__(self, spans: Iterable[Span]):
        self._spans: list[Span] = []
        for span in sorted(spans):
            if not self._spans or span[1] > self._spans[-1][1]:  # not inside the previous one
                self._spans.append(span)

    def __contains__(self, at: int) -> bool:
        i = bisect.bisect(self._spans, at, key=lambda span: span[0]) - 1
        return i >= 0 and at < self._spans[i][1]


class ErrorCode:
    """The code for error messages in all files of a package.

    Attributes:
      raising: names of functions that always raise.
      error_only: names of functions that are called only for errors.
    """

    def __init__(self, sources: Sequence[Source]):
        nodes = {source.file: list(ast.walk(source.tree)) for source in sources}
        functions = [n for each in nodes.values() for n in each if isinstance(n, Function)]
        self.raising = frozenset(f.name for f in functions if _always_raises(f))
        self._files = {s.file: _File(s, nodes[s.file], self) for s in sources}
        self.error_only: frozenset[str] = frozenset()
        while True:
            inside, outside = Counter[str](), Counter[str]()
            for file in self._files.values():
                spans = file.spans(self.error_only)
                for name, at in file.reads:
                    (inside if at in spans else outside)[name] += 1
            found = {f.name for f in functions if inside[f.name] and not outside[f.name]}
            if found <= self.error_only:
                return
            self.error_only |= found

    def spans(self, source: Source) -> Spans:
        """The parts of a file that are not mutated."""
        return self._files[source.file].spans(self.error_only)

    def is_error(self, node: ast.AST | None) -> bool:
        """Whether a node is a call that creates or raises an error."""
        if not isinstance(node, ast.Call):
            return False
        name = called(node)
        return name in self.raising or name.endswith(("Error", "Warning")) or name == "warn"

    def refuses(self, statement: ast.stmt) -> bool:
        """Whether a statement only raises."""
        value = statement.value if isinstance(statement, ast.Expr | ast.Return) else None
        return isinstance(statement, ast.Raise) or self.is_error(value)


class _File:
    """The exclusions of one file, computed once."""

    def __init__(self, source: Source, nodes: list[ast.AST], error_code: ErrorCode):
        self._base = [source.span(part) for n in nodes for part in _excluded(n, error_code)]
        self.reads = list(_reads(source, nodes))
        functions = [node for node in nodes if isinstance(node, Function)]
        self._functions = [(f.name, source.span(f)) for f in functions]
        self._locals = [found for f in functions if (found := _locals(source, f))[0]]

    def spans(self, error_only: Collection[str]) -> Spans:
        named = ("__repr__", "__str__", *error_only)
        spans = self._base + [span for name, span in self._functions if name in named]
        known = Spans(spans)
        return Spans(
            spans + [s for each in self._locals for s in _error_only_assignments(*each, known)]
        )


def _excluded(node: ast.AST, error_code: ErrorCode) -> Iterator[ast.AST]:
    match node:
        case ast.Raise(exc=exc, cause=cause):
            yield from (part for part in (exc, cause) if part)
        case ast.Call() if error_code.is_error(node):
            yield from (*node.args, *node.keywords)
        case ast.Call() if called(node) in ("cast", "TypeVar"):
            yield from node.args[:1]
        case ast.Call() if called(node) == "isinstance":
            yield from node.args[1:]
        case ast.FunctionDef(returns=annotation) | ast.AsyncFunctionDef(returns=annotation):
            yield from (part for part in (annotation,) if part)
        case ast.arg(annotation=annotation) | ast.AnnAssign(annotation=annotation):
            yield from (part for part in (annotation,) if part)
        case ast.ClassDef(bases=bases):
            yield from (d for d in node.decorator_list if "dataclass" in ast.unparse(d))
            if any(ast.unparse(base).endswith(("Error", "Warning")) for base in bases):
                yield node
        case ast.Assert(msg=message):
            yield from (part for part in (message,) if part)
        case ast.Module(body=body):
            yield from (statement for statement in body if _is_not_run(statement))
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            yield node
        # zip(strict=True) guards against bugs, not against bad input.
        case ast.keyword(arg="strict"):
            yield node


def called(node: ast.Call) -> str:
    """The last part of the name of the called function."""
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _reads(source: Source, nodes: Iterable[ast.AST]) -> Iterator[Read]:
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
                yield name, source.span(node)[0]


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function, without those of nested functions."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def _always_raises(function: Function) -> bool:
    last = function.body[-1]
    if not isinstance(last, ast.Raise) or not last.exc:
        return False
    if "NotImplementedError" in ast.unparse(last.exc):
        return False  # an abstract method: others of this name return
    return not any(
        isinstance(n, ast.Return | ast.Yield | ast.YieldFrom) for n in _own_nodes(function)
    )


def _locals(source: Source, function: Function) -> tuple[dict[str, list[Span]], list[Read]]:
    """The positions at which a function assigns to its names, and those at which it reads them."""
    assigned: dict[str, list[Span]] = {}
    for node in _own_nodes(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                assigned.setdefault(name, []).append(source.span(node))
    reads = _reads(source, ast.walk(function)) if assigned else ()
    return assigned, [read for read in reads if read[0] in assigned]


def _error_only_assignments(
    assigned: Mapping[str, list[Span]], reads: Iterable[Read], error_only: Spans
) -> list[Span]:
    """The assignments to names that are read only in code for error messages."""
    found: list[Span] = []
    while True:
        more = Spans(found)
        other = {name for name, at in reads if at not in error_only and at not in more}
        only = {name for name, _ in reads} - other
        spans = [span for name in sorted(only) for span in assigned[name]]
        if len(spans) == len(found):
            return found
        found = spans


def _is_not_run(statement: ast.stmt) -> bool:
    """Whether a statement is `__all__`, a type alias, or run only by type checkers or scripts."""
    match statement:
        case ast.If(test=test):
            return ast.unparse(test) in NOT_RUN
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            if name == "__all__":
                return True
            plain = isinstance(value, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp)
            calls = any(isinstance(node, ast.Call) for node in ast.walk(value))
            return plain and not calls and name[0].isupper() and not name.isupper()
    return False
