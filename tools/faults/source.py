"""A source file with its syntax tree, and edits of its text."""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

Span = tuple[int, int]
COMMENT = re.compile(rb"#[^\n]*")


class Edit(NamedTuple):
    """Bytes `start:end` of a file become `text`."""

    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A file as bytes, because `ast` counts columns in bytes.

    Attributes:
      file: its path, relative to the root of the project, with "/".
    """

    file: str
    data: bytes

    @classmethod
    def read(cls, root: pathlib.Path, path: pathlib.Path) -> Source:
        return cls(path.relative_to(root).as_posix(), path.read_bytes())

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.data)

    @functools.cached_property
    def _line_starts(self) -> list[int]:
        lengths = (len(line) for line in self.data.split(b"\n"))
        return list(itertools.accumulate((n + 1 for n in lengths), initial=0))

    def span(self, node: ast.AST) -> Span:
        """The start and the end of a node's text in bytes."""
        # Only for expressions and statements, which have positions, unlike `ast.AST`.
        return (
            self._line_starts[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self._line_starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def line(self, at: int) -> int:
        """The number of the line that byte `at` is in, from 1."""
        return self.data.count(b"\n", 0, at) + 1

    def find(self, pattern: str, start: int, end: int) -> Span | None:
        """The first match between two positions, outside comments."""
        gap = COMMENT.sub(lambda found: b" " * len(found[0]), self.data[start:end])
        found = re.search(pattern.encode(), gap)
        return (start + found.start(), start + found.end()) if found else None

    def lines(self, edit: Edit) -> tuple[str, str]:
        """The lines that an edit changes, before and after, each joined to one line."""
        first = self.data.rfind(b"\n", 0, edit.start) + 1
        last = self.data.find(b"\n", edit.end)
        last = len(self.data) if last < 0 else last
        while True:
            after = self.data[first : edit.start] + edit.text.encode() + self.data[edit.end : last]
            if after.strip() or not first:
                return flat(self.data[first:last].decode()), flat(after.decode())
            # All lines are removed: the line above shows the context.
            first = self.data.rfind(b"\n", 0, first - 1) + 1

    def edited(self, edit: Edit) -> bytes:
        return self.data[: edit.start] + edit.text.encode() + self.data[edit.end :]

    @functools.cached_property
    def _dump(self) -> str:
        return ast.dump(self.tree)

    def changes(self, edit: Edit) -> bool:
        """Whether the edited file is a valid program that differs from the original."""
        try:
            return ast.dump(ast.parse(self.edited(edit))) != self._dump
        except SyntaxError:
            return False


def flat(text: str) -> str:
    return " ".join(text.split())


def python_files(root: pathlib.Path, paths: Sequence[str]) -> list[pathlib.Path]:
    """The Python files in `paths`, which are files and folders.

    Raises:
      FileNotFoundError: a path does not exist.
    """
    found: set[pathlib.Path] = set()
    for path in paths:
        here = root / path
        if not here.exists():
            raise FileNotFoundError(f"{path} is not in {root}: name files or folders of the tree")
        found |= set(here.rglob("*.py")) if here.is_dir() else {here}
    return sorted(found)
