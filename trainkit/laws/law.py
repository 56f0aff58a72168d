"""What a law is, and what it says when it is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["standard", "strict"]


@dataclass(frozen=True)
class Violation:
    """One way in which a law was found broken.

    Attributes:
      message: what was found, in one or two sentences, with the numbers.
      counterexample: the (shrunk) input that shows it: a dict with the parameters, the gradients of
        every step and whatever else the law needs.
      script: the body of the reproducer, a few lines that use `tx` (or `schedule`), or `""`.
      level: the level this violation belongs to, where that differs from the law's own.
      devices: how many (simulated) devices the reproducer needs.
    """

    message: str
    counterexample: dict[str, Any] = field(default_factory=dict)
    script: str = ""
    level: Level | None = None
    devices: int = 1


class NotApplicable(Exception):
    """Raised by a law that has nothing to say about this subject; the text is the reason."""


@dataclass(frozen=True)
class Law:
    """A statement about every update rule (or schedule), and the code that tests it.

    `check` takes a `Subject` and returns the violations that it found (or one, or `None`). It may
    raise `NotApplicable("why")`, and anything that the rule itself raises is reported as a failure.

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
      name: how it is asked for and reported; words, as a person would say them.
      statement: one sentence.
      check: `Subject -> None | Violation | iterable of Violation`.
      reference: where the statement comes from.
      tolerance: what counts as agreement.
      why: the reason for that tolerance.
      level: "standard" (ordinary use) or "strict".
      claim: the claim that makes the law apply; `None` for a universal law.
      kind: what it speaks of, "transformation" or "schedule".
      group: the heading it is printed under.
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
