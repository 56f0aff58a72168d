"""Where rules refuse: every such place in their source, and which of them a case reached."""

from __future__ import annotations

import ast
import contextlib
import pathlib
import sys
from collections.abc import Iterator

import pytest

import trainkit.growth.rules
from trainkit.growth.analysis.joint_program import Analysis

FOLDER = pathlib.Path(trainkit.growth.rules.__file__).parent
CALLS = {"fail", "refuse_growth", "refuse_padding", "refuse"}

Site = tuple[str, str, int]  # file, function, number of the call in it


def _calls(node: ast.AST) -> list[ast.Call]:
    found = [
        call
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and (getattr(call.func, "attr", None) or getattr(call.func, "id", None)) in CALLS
    ]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def lines() -> dict[tuple[str, int], Site]:
    """(file, line) -> the refusing call there, for every line of such a call."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        name = path.relative_to(FOLDER).as_posix()
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for i, call in enumerate(_calls(function)):
                    for line in range(call.lineno, (call.end_lineno or call.lineno) + 1):
                        found[name, line] = (name, function.name, i)
    return found


@contextlib.contextmanager
def reached() -> Iterator[set[Site]]:
    """The sites that refuse inside the block."""
    known, seen = lines(), set()
    original = Analysis.fail

    def fail(self, *args, **kwargs):
        frame = sys._getframe(1)
        while frame is not None:
            path = pathlib.Path(frame.f_code.co_filename)
            if path.is_relative_to(FOLDER):
                site = known.get((path.relative_to(FOLDER).as_posix(), frame.f_lineno))
                if site is not None:
                    seen.add(site)
                    break
            frame = frame.f_back
        original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Analysis, "fail", fail)
        yield seen
