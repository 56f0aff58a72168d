"""The source text of a lambda, even if there are others on the same lines."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any


def text_of(f: Callable[..., Any]) -> str | None:
    """The source text of a lambda: the one on its lines that compiles to the same code."""
    source = textwrap.dedent(inspect.getsource(f))
    tree = None
    for candidate in (source, "(" + source, source.rstrip().rstrip(",)"), f"f({source.strip()}"):
        try:
            tree = ast.parse(candidate)
        except SyntaxError:
            continue
        source = candidate
        break
    if tree is None:
        return _by_prefix(f, source)
    texts = [ast.get_source_segment(source, n) for n in ast.walk(tree) if isinstance(n, ast.Lambda)]
    return _same(f, [t for t in texts if t])


def _by_prefix(f: Callable[..., Any], source: str) -> str | None:
    """Tries every prefix of the text after `lambda`, for source lines that do not parse."""
    texts, start = [], source.find("lambda")
    while start >= 0:
        for end in range(len(source), start + 6, -1):
            try:
                node = ast.parse(source[start:end], mode="eval").body
            except SyntaxError:
                continue
            if isinstance(node, ast.Lambda):  # and not a tuple that begins with one
                texts.append(source[start:end])
        start = source.find("lambda", start + 6)
    return _same(f, [t for t in texts if t.startswith("lambda")])


def _same(f: Callable[..., Any], texts: list[str]) -> str | None:
    for text in texts:
        made = compile(text, "<lambda>", "eval").co_consts
        codes = [c for c in made if isinstance(c, types.CodeType)]
        if any(_outline(c) == _outline(f.__code__) for c in codes):
            return " ".join(text.split())
    return " ".join(texts[0].split()) if len(texts) == 1 else None


def _outline(code: types.CodeType) -> tuple[Any, ...]:
    """What compilations of the same text have in common: names, constants, inner functions."""
    consts = [_outline(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts
              if not isinstance(c, str) or "<locals>" not in c]  # fmt: skip
    names = {*code.co_names, *code.co_freevars, *code.co_cellvars, *code.co_varnames}
    return tuple(consts), frozenset(names)
