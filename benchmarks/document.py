"""The sections of docs/performance.md that the command writes, one for each part and device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row, parse, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
SECTION = re.compile(r"<!-- measured: (.+?) -->\n(.*?)<!-- end -->\n", re.DOTALL)


def sections(text: str) -> dict[str, str]:
    """Key -> content of every generated section, such as "step, cpu"."""
    return dict(SECTION.findall(text))


def updated(text: str, key: str, heading: str, environment: str, rows: Sequence[Row]) -> str:
    """The page with these rows in the section of that key, which is appended if there is none.

    Rows of other commands stay, as long as they were measured in the same environment: numbers from
    two machines or versions never stand in one table.
    """
    old = sections(text).get(key, "")
    kept = parse(old) if f"\n{environment}\n" in old else []
    new = {row.name: row for row in rows}
    commands = {row.command for row in rows}
    merged: list[Row] = []
    for row in kept:
        if row.name in new:
            merged.append(new.pop(row.name))
        elif row.command not in commands:  # else: a row that the command no longer prints
            merged.append(row)
    merged += new.values()
    content = f"### {heading}\n\n{environment}\n\n{table(merged)}\n\n"
    section = f"<!-- measured: {key} -->\n{content}<!-- end -->\n"
    if key in sections(text):
        pattern = re.compile(rf"<!-- measured: {re.escape(key)} -->\n.*?<!-- end -->\n", re.DOTALL)
        return pattern.sub(lambda _: section, text)
    return text.rstrip("\n") + "\n\n" + section


def write(path: Path, key: str, heading: str, environment: str, rows: Sequence[Row]) -> None:
    """Writes the rows into the page, which is made if it does not exist."""
    text = path.read_text() if path.exists() else "# Measurements\n"
    path.write_text(updated(text, key, heading, environment, rows))
