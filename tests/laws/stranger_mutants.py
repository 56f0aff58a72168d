"""Rules written without a look at the laws: right ones, and the same with one fault each.

They were written in one go, from `docs/laws.md` and the docstring of `check` alone, in the styles
of people, and each is called as its author would call it. `docs/laws.md` has the first run as it
fell. Afterwards only these changed: right rules in which the laws had found a fault of their own
(trees that contain tuples, a count of weak type, Optax's decay and norm where `like` means the
paper's), and a claim "clip" where "bounded" was meant. `python -m tests.laws.stranger_mutants`
prints the score.
"""

from __future__ import annotations

import sys

from tests.laws.mutants import score
from tests.laws.strangers import (
    adam,
    chains,
    directions,
    factors,
    muon,
    norms,
    preconditioners,
    published,
    schedules,
    wrappers,
)

FILES = (
    muon, preconditioners, factors, adam, directions, published, norms, wrappers, chains, schedules
)  # fmt: skip
MUTANTS = tuple(m for file in FILES for m in file.CASES.wrong)
CORRECT = tuple(m for file in FILES for m in file.CASES.right)

NOT_SAID = "no claim of the call speaks of it, and the rule is not said to be a known one"
SURVIVORS: dict[str, str] = {
    "shampoo: powers of -1/2 on both sides": NOT_SAID,
    "shampoo: epsilon added to the root": NOT_SAID,
    "soap: second moment without bias correction: the first steps are 4 times as long": NOT_SAID,
    "plateau: cuts at every step after the first cut": "it is the same rule: the count begins anew "
    "while the plateau cools down",
}


if __name__ == "__main__":
    sys.exit(score(list(MUTANTS), SURVIVORS, sys.argv[1:]))
