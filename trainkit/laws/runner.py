"""Runs laws on a subject, in order, and collects outcomes and failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from trainkit.laws import claims as claiming
from trainkit.laws.clock import OutOfTime
from trainkit.laws.crashes import Place, cause_of, crashed_as, place_of
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.report import Failure, Outcome, Report, Result
from trainkit.laws.reproducers import source

# Claims that need a reference or a value.
NEED_A_VALUE = ("oracle",)


def run(
    subject: Any, laws: Sequence[Law], code: Callable[[], str], words: str, asked: bool,
    progress: bool | None = None,
) -> Report:  # fmt: skip
    """Runs every law on the subject, in order, until the time limit or Ctrl-C.

    Args:
      subject: a `Subject` or a `ScheduleSubject`.
      code: returns the lines of a reproducer that define the rule; called for failures.
      words: the name of the subject in the report.
      asked: whether the user named the laws; then laws without a claim and strict laws run too.
      progress: whether to print the current law on the terminal; `None`: if there is a terminal.
    """
    results: list[Result] = []
    began = subject.clock.began
    failures: list[Failure] = []
    crashed: dict[Place, list[str]] = {}  # the laws in which it crashed there, the first one first
    laws = [x for x in laws if x.level != "strict" or subject.level == "strict" or asked]
    stopped = ""
    for number, law in enumerate(laws, 1):
        start = time.perf_counter()
        outcome, note, found = _unasked(subject, law, asked) or ("not reached", stopped, [])
        if outcome == "not reached" and not stopped:
            _show(progress, f"{words}: {law.name} ({number} of {len(laws)}, {start - began:.0f} s)")
            try:
                subject.clock.check()
                outcome, note, found = _outcome(subject, law, crashed)
            except OutOfTime as error:
                note = stopped = str(error)
            except KeyboardInterrupt:
                note = stopped = "it was interrupted"
        for one in found:
            failures.append(
                Failure(
                    law.name, law.statement, one.message, one.level or law.level,
                    one.counterexample or {"law": law.name}, _program(law, one, code),
                    law.reference, law.tolerance,
                )
            )  # fmt: skip
        level = (found[0].level if found else None) or law.level
        took = time.perf_counter() - start
        results.append(Result(law.name, law.group, level, outcome, note, took))
    _show(progress, "")
    hidden = {first: tuple(others) for first, *others in crashed.values()}
    failures = [replace(f, hides=hidden.get(f.law, ())) for f in failures]
    return Report(
        words, subject.level, tuple(results), tuple(failures), tuple(subject.notes),
        time.perf_counter() - began,
    )  # fmt: skip


def _unasked(subject: Any, law: Law, asked: bool) -> tuple[Outcome, str, list[Violation]] | None:
    """The outcome of a law that is not run, with the reason; `None` for a law to run."""
    excepted = claiming.excepted(subject.claims, law.name)
    if excepted:
        return "excepted", excepted, []
    if law.claim is not None and law.claim not in subject.claims:
        if not asked or law.claim in NEED_A_VALUE:
            return "not claimed", "", []
        subject.claims[law.claim] = True
    return None


def _outcome(
    subject: Any, law: Law, crashed: dict[Place, list[str]]
) -> tuple[Outcome, str, list[Violation]]:
    try:
        made = law.check(subject)
        found = [made] if isinstance(made, Violation) else list(made or ())
    except NotApplicable as reason:
        return "not applicable", str(reason), []
    except Exception as error:
        laws = crashed.setdefault(place_of(cause_of(error)), [])
        laws.append(law.name)
        if len(laws) > 1:
            return "not applicable", f"it crashed as in {laws[0]!r}", []
        return "broken", (one := crashed_as(error, law)).message, [one]
    new, known = _by_place(found, law, crashed)
    if new:
        return "broken", new[0].message, new
    return ("not applicable", f"it crashed as in {known!r}", []) if known else ("holds", "", [])


def _by_place(
    found: list[Violation], law: Law, crashed: dict[Place, list[str]]
) -> tuple[list[Violation], str]:
    """The violations that are not a crash at a known place, and the law that told of another."""
    new, known = [], ""
    for one in found:
        laws = crashed.setdefault(place_of(one.cause), []) if one.cause else []
        if laws:
            known = laws[0]
        else:
            new.append(one)
        if law.name not in laws:
            laws.append(law.name)
    return new, known


def _show(progress: bool | None, text: str) -> None:
    """Prints one line on the terminal over the last one; an empty text clears it."""
    if progress or (progress is None and sys.stderr.isatty()):
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _program(law: Law, found: Violation, code: Callable[[], str]) -> str:
    if not found.script:
        return ""
    with ordinary():
        prelude = code()
    head = source.header(found.devices)
    return f"# {law.name}: {law.statement}\n{head}\n{prelude}\n\n{found.script}\n"
