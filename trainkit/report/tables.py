"""Tables of a report as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any


def table(values: Mapping[str, Any]) -> str:
    """A table of names and values.

    >>> table({"a<b": 1})
    '<table><tr><td>a&lt;b</td><td>1</td></tr></table>'
    """
    rows = "".join(
        f"<tr><td>{escaped(name)}</td><td>{escaped(value)}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def rows_html(rows: Sequence[Mapping[str, str]]) -> str:
    """A table with a column for each name that some row has; on a narrow screen a list."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escaped(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(_cell(name, row.get(name, "")) for name in names) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="rows"><tr>{head}</tr>{body}</table></div>'


def _cell(name: str, value: Any) -> str:
    # A number is read in one piece; the table scrolls where it is too wide.
    short = ' class="short"' if len(str(value)) < 24 else ""
    return f'<td data-name="{escaped(name)}"{short}>{escaped(value)}</td>'


def columns_html(rows: Sequence[Mapping[str, str]]) -> str:
    """A table that has a column for each row: for few rows with many names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head, *rest = [
        f"<tr><td>{escaped(name)}</td>"
        + "".join(f"<td>{escaped(row.get(name, ''))}</td>" for row in rows)
        + "</tr>"
        for name in names
    ]
    head = head.replace("td>", "th>")
    return f'<div class="wide"><table class="columns">{head}{"".join(rest)}</table></div>'


def text_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table as text, with a column for each name that some row has.

    >>> print(text_table([{"rate": "0.1", "loss": "2"}, {"rate": "10", "loss": "0.5"}]))
    rate  loss
    0.1   2
    10    0.5
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(names))]
    shown = (
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in shown)


def escaped(value: Any) -> str:
    """A value as the text of a page."""
    return html.escape(str(value))
