"""A report of runs as one HTML file that needs nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit._core.processes import is_writer
from trainkit._core.run_files import REPORT, write_whole
from trainkit._core.units import si
from trainkit.report.panels import sections
from trainkit.report.run_data import RunData, read_run
from trainkit.report.tables import escaped, table

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f5f6f8; --ink: #1d2330;
  --soft: #5d6675; --faint: #d9dde4; --accent: #3b7dd8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --card: #1d222b; --ink: #e6e9ef;
  --soft: #98a2b3; --faint: #343b48; --accent: #6ea3ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 78rem; background: var(--paper);
  color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -0.02em; }
h2 { margin: 2.6rem 0 0.9rem; font-size: 1.15rem; }
p.lead { margin: 0 0 1.4rem; padding: 0.9rem 1.2rem; border-radius: 10px; font-size: 1.15rem;
  background: var(--accent); color: #fff; }
p.sub { margin: 0.3rem 0 0; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.8rem;
  margin-top: 1.6rem; }
.card { padding: 0.8rem 1rem; border-radius: 10px; background: var(--card); }
.card b { display: block; font-size: 1.25rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 0.86rem; }
.card.main { background: var(--accent); } .card.main b, .card.main span { color: #fff; }
@media (prefers-color-scheme: dark) { p.lead, .card.main b, .card.main span { color: #10141b; } }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: 0.7rem; border: 1px solid var(--faint); border-radius: 10px; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
pre { padding: 0.9rem 1.1rem; overflow-x: auto; border-radius: 10px; background: var(--card);
  font: 0.9rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 2rem; }
table { width: 100%; border-collapse: collapse; font-size: 0.92rem; align-self: start; }
td, th { padding: 0.3rem 0.6rem 0.3rem 0; border-bottom: 1px solid var(--faint); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
td:first-child { color: var(--soft); white-space: nowrap; }
"""


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
) -> str:
    """The page: of the first run its numbers and options, of all of them the plots.

    >>> rows = [{"step": 1, "kind": "train", "loss": 1.0}]
    >>> "<h1>A &amp; B</h1>" in report_html([RunData("mine", rows)], title="A & B")
    True
    """
    run = runs[0]
    summary = run.summary
    body = [lead_html(lead), f"<h1>{escaped(title)}</h1>"]
    if summary:
        body.append(
            f'<p class="sub">{escaped(summary["devices"])} · ended after '
            f"{summary['steps']:,} steps: {escaped(summary['stopped'])}</p>"
        )
    body.append(_cards(headline or {}, _numbers(run)))
    for section in sections(runs):
        figures = "".join(f"<figure>{svg}</figure>" for svg in section.plots)
        body.append(f'<h2>{escaped(section.title)}</h2><div class="plots">{figures}</div>')
    body.extend(parts)
    if summary.get("command"):
        body.append(f"<h2>To repeat it</h2><pre>{escaped(summary['command'])}</pre>")
    tables = [
        f"<div><h2>{escaped(name)}</h2>{table(values)}</div>"
        for name, values in (
            ("Options", run.config),
            ("Made with", summary.get("versions", {})),
        )
        if values
    ]
    body.append(f'<div class="tables">{"".join(tables)}</div>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def lead_html(sentence: str) -> str:
    """What came out, as the first line of a page."""
    return f'<p class="lead">{escaped(sentence)}</p>' if sentence else ""


def _cards(headline: Mapping[str, str], numbers: Mapping[str, str]) -> str:
    def card(name: str, value: str, kind: str) -> str:
        return f'<div class="{kind}"><b>{escaped(value)}</b><span>{escaped(name)}</span></div>'

    cards = [card(name, value, "card main") for name, value in headline.items()]
    cards += [card(name, value, "card") for name, value in numbers.items()]
    return f'<div class="cards">{"".join(cards)}</div>'


def _numbers(run: RunData) -> dict[str, str]:
    summary = run.summary
    if not summary:
        return {}
    shown = {
        f"validation {name}": f"{value:.4f}"
        for name, value in summary["evaluation"].items()
        if value is not None
    }
    shown["steps"] = f"{summary['steps']:,}"
    if summary["epochs"]:
        shown["epochs"] = f"{summary['epochs']:.3g}"
    shown["examples"] = f"{summary['examples']:,}"
    if summary["flops"]:
        shown["FLOPs counted"] = si(summary["flops"])
    shown["wall time"] = _duration(summary["seconds"])
    if speed := _speed(run):
        shown["examples per second, while training"] = f"{speed:,.0f}"
    waited = summary["metrics"].get("compile_seconds")
    if waited:
        shown["waited for compiling"] = _duration(waited)
    return shown


def _speed(run: RunData) -> float:
    """Examples a second of all training rows; 0 where none was measured.

    >>> rows = [{"step": n, "kind": "train", "examples": 10 * n, "examples_per_second": 10.0 / n}
    ...         for n in (1, 2)]
    >>> round(_speed(RunData("mine", rows)), 3)  # 10 examples in 1 s, 10 in 2 s
    6.667
    """
    examples = seconds = last = 0.0
    for row in run.of("train"):
        if row.get("examples_per_second"):
            examples += row["examples"] - last
            seconds += (row["examples"] - last) / row["examples_per_second"]
        last = row.get("examples", last)
    return examples / seconds if seconds else 0.0


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
