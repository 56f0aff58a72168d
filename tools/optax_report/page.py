"""The page of the report over Optax, from the outcomes and the classes of what was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tools.optax_report.names import public
from tools.optax_report.names import reason as why_none

KINDS = ("bug", "documented limitation", "law not claimed", "unclassified")
HEADINGS = {
    "bug": "Bugs",
    "documented limitation": "Documented limitations",
    "law not claimed": "Laws not claimed",
    "unclassified": "Unclassified",
}
INTRODUCTION = """\
A **bug** is a result that the documentation does not prepare for. A **documented limitation** is
one that the documentation, or the precision that was asked for, does. A **law not claimed** is
universal in this kit but nothing that this rule promises. The level *standard* is ordinary use;
*strict* adds float16, mixed dtypes, x64, gradients of 1e±30 and saturated counts.

Findings that have one cause stand together, under one reason and with the shortest program that
shows it. `python -m tools.optax_report --reproducer ROW LAW` prints that of any other.
"""


class Found(NamedTuple):
    """A violation and its classification."""

    row: str
    failure: Mapping[str, str]
    kind: str
    reason: str


def classify(classes: Mapping[str, Any], row: str, failure: Mapping[str, str]) -> tuple[str, str]:
    """(class, reason): the first entry whose rule, law and pattern fit."""
    name = row.split(",")[0]
    for entry in classes.get("violation", []):
        if (
            re.fullmatch(entry.get("rule", ".*"), name)
            and re.fullmatch(entry.get("law", ".*"), failure["law"])
            and re.search(entry.get("message", ""), failure["message"])
        ):
            return entry["class"], entry["reason"]
    return "unclassified", "Nobody has looked at it yet."


def page(
    classes: Mapping[str, Any], rows: Mapping[str, str], outcomes: Mapping[str, Any], quick: int,
    shown: Callable[[Sequence[str]], Sequence[bool]] = lambda programs: [True] * len(programs),
    deviations: Iterable[str] = (),
) -> Iterator[str]:  # fmt: skip
    """The lines of the page; `quick` is how many laws a quick run checks.

    `shown` maps programs to whether they fail outside the kit: only those are printed.
    `deviations` are the lines of the section on deviations from papers.
    """
    import optax

    done = {row: o for row, o in outcomes.items() if row in rows and "results" in o}
    found = [
        Found(row, f, *classify(classes, row, f))
        for row in rows
        if row in done
        for f in done[row]["failures"]
    ]
    checked = sum(r[2] in ("holds", "broken") for o in done.values() for r in o["results"])
    yield "# The laws of Optax\n"
    yield (
        "Written by `python -m tools.optax_report`; edit "
        "`docs/laws-of-optax.toml` and run it again, not this page.\n"
    )
    yield (
        f"Optax {optax.__version__}: {_of(len(done), len(rows))} of its public "
        f"rules, pieces and schedules (contrib included) were checked at the strict level"
        f"{_so_far(done, quick)}: {checked} checks, {len(found)} violations.\n"
    )
    yield "| | standard | strict | all | causes |"
    yield "|---|---|---|---|---|"
    for kind in KINDS:
        these = [x for x in found if x.kind == kind]
        by = [sum(x.failure["level"] == level for x in these) for level in ("standard", "strict")]
        causes = len({x.reason for x in these})
        yield f"| {HEADINGS[kind]} | {by[0]} | {by[1]} | {len(these)} | {causes} |"
    yield "\n" + INTRODUCTION
    for kind in KINDS:
        these = [x for x in found if x.kind == kind]
        if these:
            yield from _section(kind, these, rows, shown)
    yield from deviations
    yield from _constructions(rows, outcomes, quick)
    yield "\n## Names without a row\n"
    without: dict[str, list[str]] = {}
    covered = {row.split(",")[0] for row in rows}
    for name, made in public():
        if name not in covered and name.rpartition(".")[2] not in covered:
            without.setdefault(why_none(name, made) or "nobody has looked at it", []).append(name)
    for why, names in sorted(without.items(), key=lambda x: len(x[1])):
        yield f"- {', '.join(f'`{name}`' for name in names)}: {why}."
    yield ""
    yield "## Exceptions and inapplicable laws\n"
    reasons: dict[tuple[str, str], list[str]] = {}
    for row, o in done.items():
        for law, _, outcome, note in o["results"]:
            if outcome in ("excepted", "not applicable"):
                reasons.setdefault((law, note), []).append(row)
    for (law, note), which in sorted(reasons.items()):
        yield f"- {law}: {_cell(note)} ({_some(which)})"


def _section(
    kind: str, found: Sequence[Found], rows: Mapping[str, str], shown: Any
) -> Iterator[str]:
    """The section of one kind: a table of causes, ordinary use first, then each cause."""
    causes: dict[str, list[Found]] = {}
    for x in found:
        causes.setdefault(x.reason, []).append(x)
    level = lambda xs: "standard" if any(x.failure["level"] == "standard" for x in xs) else "strict"
    order = sorted(causes.items(), key=lambda c: (level(c[1]) == "strict", -len(c[1])))
    yield f"## {HEADINGS[kind]}\n"
    yield "| | rules | laws | level | |"
    yield "|---|---|---|---|---|"
    for i, (reason, these) in enumerate(order, 1):
        yield (
            f"| {i} | {_some(_names(these))} | {', '.join(_laws(these))} | {level(these)} | "
            f"{_cell(_first_sentence(reason))} |"
        )
    yield ""
    shown([x[1] for _, these in order for x in _programs(these, rows)[:1]])  # many at once
    for i, (reason, these) in enumerate(order, 1):
        yield f"### {HEADINGS[kind]}, {i}: {_some(_names(these))}\n"
        yield f"{reason}\n"
        yield "| rule | law | level | found |"
        yield "|---|---|---|---|"
        for x in these:
            found_text = _cell(x.failure["message"])
            yield f"| {x.row} | {x.failure['law']} | {x.failure['level']} | {found_text} |"
        yield from _program(these, rows, shown)


def _programs(found: Sequence[Found], rows: Mapping[str, str]) -> list[tuple[Found, str]]:
    """The programs of violations, the shortest first."""
    written = [
        (x, reproducer(x.failure, rows[x.row]).strip()) for x in found if x.failure["reproducer"]
    ]
    return sorted(written, key=lambda pair: len(pair[1]))


def _program(found: Sequence[Found], rows: Mapping[str, str], shown: Any) -> Iterator[str]:
    """The shortest program that fails outside the kit, or a note that none does."""
    tried = _programs(found, rows)
    for x, program in tried:
        if shown([program])[0]:
            yield f"\n<details><summary>Reproducer ({x.row}, {x.failure['law']})</summary>\n"
            yield f"```text\n{program}\n```\n\n</details>\n"
            return
    yield (
        "\nNo program: " + ("the kit wrote none.\n" if not tried else
        "none of those that the kit wrote fails outside it; what was found may be an accident of "
        "rounding.\n")
    )  # fmt: skip


def reproducer(failure: Mapping[str, str], expression: str) -> str:
    """The program, with the expression of its rule as source."""
    return re.sub(
        r"# The source of the rule .*\n(tx|schedule) = \.\.\.",
        lambda m: f"{m[1]} = {expression}",
        failure["reproducer"],
    )


def _constructions(
    rows: Mapping[str, str], outcomes: Mapping[str, Any], quick: int
) -> Iterator[str]:
    yield "## Every construction\n"
    yield "| construction | laws that hold | broken, standard | broken, strict |"
    yield "|---|---|---|---|"
    for row, expression in rows.items():
        o = outcomes.get(row)
        if o is None or "results" not in o:
            why = o["error"] if o else "not run yet"
            yield f"| `{_cell(expression)}` | not checked: {_cell(why)} | | |"
            continue
        held: Any = sum(r[2] == "holds" for r in o["results"])
        if o.get("quick"):
            held = f"{held} (of {quick} tried)"
        by = {
            level: ", ".join(sorted({f["law"] for f in o["failures"] if f["level"] == level}))
            for level in ("standard", "strict")
        }
        yield f"| `{_cell(expression)}` | {held} | {by['standard']} | {by['strict']} |"


def _names(found: Sequence[Found]) -> list[str]:
    return list(dict.fromkeys(x.row for x in found))


def _laws(found: Sequence[Found]) -> list[str]:
    return sorted({x.failure["law"] for x in found})


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:;])\s", text, maxsplit=1)[0].rstrip(".:;")


def _some(names: Sequence[str], most: int = 6) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _of(part: int, whole: int) -> str:
    return f"all {whole} constructions" if part == whole else f"{part} of {whole} constructions"


def _so_far(done: Mapping[str, Any], quick: int) -> str:
    few = sum(bool(o.get("quick")) for o in done.values())
    return f" ({few} of them only against the {quick} laws broken most often)" if few else ""


def _cell(text: str) -> str:
    text = re.sub(r"/\S*/site-packages/", "", text)  # not the folders of this machine
    return " ".join(text.split()).replace("|", "\\|")
