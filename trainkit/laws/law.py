"""`Law`, and `Violation`, the result of a broken law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["standard", "strict"]


@dataclass(frozen=True)
class Violation:
    """One counterexample to a law.

    Attributes:
      message: the finding, in one or two sentences, with the numbers.
      counterexample: the shrunk input: a dict with the parameters, the gradients of every step, and
        what else the law needs.
      script: the body of the reproducer, a few lines that use `tx` (or `schedule`), or `""`.
      level: the level of this violation, if it is not the law's.
      devices: the number of (simulated) devices that the reproducer needs.
      cause: the exception that the rule raised, if that is what breaks the law.
    """

    message: str
    counterexample: dict[str, Any] = field(default_factory=dict)
    script: str = ""
    level: Level | None = None
    devices: int = 1
    cause: BaseException | None = None


class NotApplicable(Exception):
    """Raised by a law that does not apply to this subject; the text is the reason."""


@dataclass(frozen=True)
class Law:
    """A statement about update rules (or schedules), and the code that tests it.

    `check` takes a `Subject` and returns violations, one violation, or `None`. It may raise
    `NotApplicable("why")`. An exception of the rule itself is reported as a failure.

        >>> from trainkit import laws
        >>> def check(subject):
        ...     run = subject.run("plain")          # updates of a random trajectory, in float32
        ...     if (abs(run.flat) > 1.0).any():
        ...         return laws.Violation(f"an update of {abs(run.flat).max():.3g}")
        >>> bounded = laws.Law("bounded", "No update is longer than 1 in any coordinate.", check,
        ...                    reference="our house rule", tolerance="exact", why="it is a bound")
        >>> import optax
        >>> laws.check(optax.lion(1e-3), laws=[bounded]).ok
        True

    Attributes:
      name: a few words, used in arguments and reports.
      statement: one sentence.
      check: `Subject -> None | Violation | iterable of Violation`.
      reference: the source of the statement.
      tolerance: the tolerance of comparisons.
      why: the reason for that tolerance.
      level: "standard" (ordinary use) or "strict".
      claim: the claim for which the law applies; `None` for a law of all rules.
      kind: "transformation" or "schedule".
      group: the section of the report.
    """

    name: str
    statement: str
    check: Callable[[Any], Any]
    reference: str = ""
    tolerance: str = ""
    why: str = ""
    level: Level = "standard"
    claim: str | None = None
    kind: Literal["transformation", "schedule"] = "transformation"
    group: str = "user"
