"""All faults that can be planted in a set of files, found by walking their syntax trees."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Sequence

from tools.faults.exclusions import ErrorCode, Function
from tools.faults.expressions import Part, of_expression
from tools.faults.source import Edit, Source, python_files
from tools.faults.statements import of_statement


@dataclasses.dataclass(frozen=True)
class Fault:
    """One small change of one file.

    Attributes:
      file, line: its place; the file is relative to the root of the project.
      kind: "branches", "condition", "off by one", "factor", "statement", "returned", "keyword" or
        "comparison".
      before, after: the lines that it changes, joined to one line each.
      which: the number of earlier faults in the file with the same kind and text.
      edit: the edit of the file.
      lines: first and last line of the statement, or of its head; a test that runs none of them
        cannot detect the fault.
    """

    file: str
    line: int
    kind: str
    before: str
    after: str
    which: int
    edit: Edit
    lines: tuple[int, int]

    @property
    def folder(self) -> str:
        return str(pathlib.PurePosixPath(self.file).parent)

    def key(self, seed: object = "") -> str:
        """A key that depends only on the changed lines, not on other lines of the file."""
        said = (seed, self.file, self.kind, self.before, self.after, self.which)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.kind}\n    - {self.before}\n    + {self.after}"


def faults_in(root: pathlib.Path, paths: Sequence[str]) -> tuple[list[Fault], dict[str, Source]]:
    """The faults in the files of `paths`, and name -> file."""
    files = python_files(root, paths)
    # The code for errors is found over the whole package.
    tops = sorted({file.relative_to(root).parts[0] for file in files})
    package = {s.file: s for s in (Source.read(root, file) for file in python_files(root, tops))}
    error_code = ErrorCode(list(package.values()))
    sources = {name: package[name] for name in (f.relative_to(root).as_posix() for f in files)}
    return [fault for s in sources.values() for fault in _faults(s, error_code)], sources


def _faults(source: Source, error_code: ErrorCode) -> Iterator[Fault]:
    spans = error_code.spans(source)
    seen: dict[tuple[str, str, str], int] = {}
    for kind, edit, lines in _edits(source, source.tree, None, error_code):
        if edit.start in spans:
            continue
        looks = (kind, *source.lines(edit))
        seen[looks] = seen.get(looks, -1) + 1
        yield Fault(source.file, source.line(edit.start), *looks, seen[looks], edit, lines)


def _edits(
    source: Source, node: ast.AST, function: Function | None, error_code: ErrorCode
) -> Iterator[tuple[str, Edit, tuple[int, int]]]:
    """(kind, edit, lines) for all statements in a node: a statement, a handler or a module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            head = list(_head(child))
            lines = _lines(child, head)
            for kind, edit in of_statement(source, child, function, error_code):
                yield kind, edit, lines
            for part in head:
                for inner in _parts(part):
                    for kind, edit in of_expression(source, inner):
                        yield kind, edit, lines
            inside = child if isinstance(child, Function) else function
            yield from _edits(source, child, inside, error_code)
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from _edits(source, child, function, error_code)


def _lines(statement: ast.stmt, head: Sequence[ast.expr]) -> tuple[int, int]:
    """First and last line of a statement, or of its head if it contains other statements."""
    first, last = statement.lineno, statement.end_lineno or statement.lineno
    if hasattr(statement, "body") or hasattr(statement, "cases"):
        last = max([first, *(part.end_lineno or 0 for part in head)])
    return min([first, *(part.lineno for part in head)]), last


def _parts(node: ast.AST) -> Iterator[Part]:
    """An expression and its parts; −1 has no parts."""
    if isinstance(node, Part):
        yield node
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
            return
    for child in ast.iter_child_nodes(node):
        yield from _parts(child)


def _head(statement: ast.stmt) -> Iterator[ast.expr]:
    """The expressions of a statement, without those of nested statements."""
    for child in ast.iter_child_nodes(statement):
        match child:
            case ast.expr():
                yield child
            case ast.withitem(context_expr=value) | ast.keyword(value=value):
                yield value
            case ast.arguments(defaults=defaults, kw_defaults=keyword_defaults):
                yield from (*defaults, *(d for d in keyword_defaults if d))
            case ast.match_case(guard=ast.expr() as guard):
                yield guard
