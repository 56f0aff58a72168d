"""Reading the text of a lambda among others in the same lines."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any


def text_of(f: Callable[..., Any]) -> str | None:
    """The text of a lambda: of those in its lines, the one that compiles to the same code."""
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
    """For a fragment that does not parse: every prefix of what follows the word lambda."""
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
    code = f.__code__
    for text in texts:
        made = compile(text, "<lambda>", "eval").co_consts
        for c in made:
            if isinstance(c, types.CodeType) and c.co_consts == code.co_consts:
                names = set(c.co_names) | set(c.co_freevars)
                if names == set(code.co_names) | set(code.co_freevars):
                    return " ".join(text.split())
    return " ".join(texts[0].split()) if len(texts) == 1 else None
