"""A report of runs as one HTML file that needs nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit._core.processes import is_writer
from trainkit._core.run_files import REPORT, commands_of, write_whole
from trainkit.report.cards import cards
from trainkit.report.comparison import options, said, table_rows
from trainkit.report.events import event_rows, numbered
from trainkit.report.outcome import sentence, tone
from trainkit.report.panels import (
    SPENT,
    TRAINING,
    VALIDATION,
    Section,
    colour_of,
    constants,
    sections,
    words,
)
from trainkit.report.run_data import RunData, read_run
from trainkit.report.style import STYLE
from trainkit.report.tables import escaped, rows_html, table

# More than these are in their table alone.
NAMED_EVENTS = 8


def write_report(
    folder: str | os.PathLike,
    *,
    title: str | None = None,
    lead: str = "",
    headline: Mapping[str, str] | None = None,
    others: Sequence[RunData] = (),
    parts: Sequence[str] = (),
) -> Path:
    """Writes `report.html` into a run's folder; of several processes, process 0 does.

    Args:
      folder: of the run.
      title: of the page; by default the name of the folder.
      lead: what came out, in a sentence: the first line of the page.
      headline: what the run was for, name -> value in words, shown first.
      others: runs to draw beside it, such as baselines.
      parts: HTML to put after the plots, such as a table of one's own.

    Returns:
      The file.
    """
    path = Path(folder) / REPORT
    if not is_writer():
        return path
    run = read_run(folder)
    page = report_html(
        [run, *others], title=title or run.name, lead=lead, headline=headline, parts=parts
    )
    write_whole(path, page)
    return path


def report_html(
    runs: Sequence[RunData],
    *,
    title: str,
    lead: str = "",
    headline: Mapping[str, str] | None = None,
    parts: Sequence[str] = (),
    refresh: float | None = None,
) -> str:
    """The page: of one run its numbers and options, of several a table and their plots.

    Args:
      runs: to report on.
      title: of the page.
      lead: the first line; by default how the run ended, or which ended best.
      headline: what the run was for, name -> value in words, shown first.
      parts: HTML to put after the plots.
      refresh: after how many seconds the page loads itself anew; `None`: never.

    >>> rows = [{"step": 1, "kind": "train", "loss": 1.0}]
    >>> "<h1>A &amp; B</h1>" in report_html([RunData("mine", rows)], title="A & B")
    True
    """
    run, one = runs[0], len(runs) == 1
    own = sentence(run) if one else said(runs)
    body = [
        lead_html(lead) if lead else lead_html(own, tone(run) if one else ""),
        f"<h1>{escaped(title)}</h1>",
    ]
    about = [run.summary.get("devices"), own if lead else None]
    if any(about):
        body.append(f'<p class="sub">{escaped(" · ".join(filter(None, about)))}</p>')
    body.append(cards(headline or {}, run if one else None))
    if not one:
        body.append(f"<h2>Runs</h2>{rows_html(table_rows(runs))}")
    body.append(_curves(runs))
    if events := event_rows(runs):
        body.append(f"<h2>Events</h2>{rows_html(events)}")
    body.extend(parts)
    commands = dict.fromkeys(line for run in runs for line in commands_of(run.summary))
    if commands:
        lines = escaped("\n".join(commands))
        body.append(f"<h2>To repeat {'it' if one else 'them'}</h2><pre>{lines}</pre>")
    body.append(_options(runs))
    live = f'<meta http-equiv="refresh" content="{refresh:g}">\n' if refresh else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{live}<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )


def lead_html(text: str, tone: str = "") -> str:
    """What came out, as the first line of a page."""
    return f'<p class="{f"lead {tone}".strip()}">{escaped(text)}</p>' if text else ""


def _curves(runs: Sequence[RunData]) -> str:
    """All plots. Those of what was spent are drawn for each axis, and one of them is shown."""
    found = sections(runs)
    axes = list(dict.fromkeys(x for section in found[:1] for x, _ in section.plots))
    shown = "flops" if len(runs) > 1 and "flops" in axes else axes[0] if axes else ""
    switch, rules = "", ""
    if len(axes) > 1:
        for x in axes:
            checked = " checked" if x == shown else ""
            switch += (
                f'<input type="radio" class="axes" name="axes" id="by-{x}"{checked}>'
                f'<label for="by-{x}">against {SPENT[x]}</label>'
            )
            rules += f"#by-{x}:checked ~ .plots .by-{x} {{ display: block; }} "
        switch = f"<style>{rules}</style>{switch}"
    parts = []
    for number, section in enumerate(found):
        chosen = switch if number == 0 else ""
        parts.append(
            f"<h2>{escaped(section.title)}</h2><div>{chosen}{_legend(runs, section)}"
            f"{_figures(section, several=bool(chosen))}</div>"
        )
    return "".join(parts)


def _figures(section: Section, several: bool) -> str:
    figures = [
        f'<figure class="by by-{x}">{svg}</figure>' if several else f"<figure>{svg}</figure>"
        for x, svg in section.plots
    ]
    return f'<div class="plots">{"".join(figures)}</div>'


def _legend(runs: Sequence[RunData], section: Section) -> str:
    """What the colours mean, for all plots under it, and the numbers of the events."""
    if len(runs) == 1:
        kinds = [("training", "train", TRAINING), ("validation", "evaluation", VALIDATION)]
        lines = [(name, colour) for name, kind, colour in kinds if section.has(runs[0], kind)]
    else:
        shown_runs = [n for n, run in enumerate(runs) if section.has(run, "train", "evaluation")]
        lines = [(runs[number].name, colour_of(number)) for number in shown_runs]
    shown = [
        f'<span><i style="color:{colour}"></i>{escaped(name)}</span>' for name, colour in lines
    ]
    events = numbered(runs)
    for event in events if len(events) <= NAMED_EVENTS else ():
        colour = "var(--ink)" if len(runs) == 1 else colour_of(event.run)
        shown.append(
            f'<span><i class="event" style="color:{colour}"></i>'
            f"{event.number}: {escaped(event.name)}</span>"
        )
    return f'<p class="legend">{"".join(shown)}</p>'


def _options(runs: Sequence[RunData]) -> str:
    unchanged = {}
    for name, values in constants(runs).items():
        each = ["" if value is None else f"{value:g}" for value in values]
        unchanged[words(name)] = each[0] if len(set(each)) == 1 else _each(runs, each)
    shown = (
        ("Options" if len(runs) == 1 else "Options that all have", options(runs)[1]),
        ("Constant throughout", unchanged),
        ("Made with", runs[0].summary.get("versions", {})),
    )
    tables = [
        f"<div><h2>{escaped(name)}</h2>{table(values)}</div>" for name, values in shown if values
    ]
    return f'<div class="tables">{"".join(tables)}</div>'


def _each(runs: Sequence[RunData], values: Sequence[str]) -> str:
    return ", ".join(f"{v} ({run.name})" for run, v in zip(runs, values, strict=True) if v)
