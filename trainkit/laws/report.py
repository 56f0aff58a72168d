"""`Report`: the results of a check, as data and as a text table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from trainkit.laws.law import Level

Outcome = Literal["holds", "broken", "not claimed", "not applicable", "excepted", "not reached"]


@dataclass(frozen=True)
class Failure:
    """A broken law.

    Attributes:
      law: the name of the law.
      statement: the law, in one sentence.
      message: the finding.
      level: "standard" or "strict".
      counterexample: the shrunk input, a dict (parameters, gradients, step, expected, found, …).
      reproducer: a Python program that needs only jax and optax, and ends in an error.
      reference, tolerance: the source of the law, and the tolerance of the comparison.
      hides: for a crash, the other laws in which the rule crashed at the same place.
    """

    law: str
    statement: str
    message: str
    level: Level
    counterexample: dict[str, Any]
    reproducer: str
    reference: str = ""
    tolerance: str = ""
    hides: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = "\n".join(f"    {k}: {_short(v)}" for k, v in self.counterexample.items())
        code = "\n".join("    " + line for line in self.reproducer.strip().splitlines())
        return (
            f"{self.law} ({self.level}): {self.statement}\n  Found: {self.message}\n"
            + (f"  Not checked for the same reason: {', '.join(self.hides)}\n" * bool(self.hides))
            + (f"  Counterexample:\n{shown}\n" if shown else "")
            + (f"  Reproducer:\n{code}\n" if code else "")
        )


@dataclass(frozen=True)
class Result:
    """The outcome of one law."""

    law: str
    group: str
    level: Level
    outcome: Outcome
    note: str = ""
    seconds: float = 0.0


class LawError(AssertionError):
    """Raised by `Report.raise_for_failures` if a law is broken."""


@dataclass(frozen=True)
class Report:
    """The outcome of `check` or `check_schedule`; print it.

    Attributes:
      subject: the name of the checked rule or schedule.
      level: the requested level.
      results: one entry for each law, in order.
      failures: one entry for each violation; one law may have several.
      notes: remarks (an inferred learning rate, a missing second device, …).
    """

    subject: str
    level: Level
    results: tuple[Result, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every checked law holds."""
        return not self.failures

    @property
    def not_reached(self) -> tuple[str, ...]:
        """The laws that were not tried, because of the time limit or Ctrl-C."""
        return tuple(r.law for r in self.results if r.outcome == "not reached")

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        held = sum(r.outcome == "holds" for r in self.results)
        broken = sorted({f.law for f in self.failures})
        verdict = "every law that was checked holds" if self.ok else f"{_laws(len(broken))} broken"
        lines = [
            f"{self.subject}: {verdict}",
            f"level {self.level}: {_laws(held)} held, {len(broken)} broken, {self.seconds:.1f} s",
            "",
        ]
        if self.not_reached:
            lines[0] += f", {_laws(len(self.not_reached))} not reached"
        shown = [r for r in self.results if r.outcome not in ("not claimed", "not reached")]
        width = max([len(r.law) for r in shown], default=3)
        lines.append(f"{'law':<{width}}  {'level':<8}  {'outcome':<14}  note")
        lines.append("-" * (width + 40))
        group = None
        for r in shown:
            if r.group != group:
                group = r.group
                lines.append(f"[{group}]")
            lines.append(f"{r.law:<{width}}  {r.level:<8}  {r.outcome:<14}  {r.note}".rstrip())
        unclaimed = [r.law for r in self.results if r.outcome == "not claimed"]
        if unclaimed:
            lines += ["", "Not claimed, so not checked: " + ", ".join(unclaimed) + "."]
        if self.not_reached:
            why = next(r.note for r in self.results if r.outcome == "not reached")
            lines += ["", f"Not reached, as {why}: " + ", ".join(self.not_reached) + "."]
        lines += ["Note: " + note for note in self.notes]
        if self.failures:
            lines += ["", "Failures", "========"]
            lines += [f"\n{i}. {f}" for i, f in enumerate(self.failures, 1)]
        return "\n".join(lines)

    def raise_for_failures(self) -> Report:
        """Raises `LawError` (an `AssertionError`) with the whole report if a law is broken."""
        if self.failures:
            raise LawError("\n" + str(self))
        return self


def _laws(n: int) -> str:
    return f"{n} law{'s' * (n != 1)}"


def _short(value: Any, limit: int = 400) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
