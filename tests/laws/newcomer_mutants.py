"""Rules written when the laws were mended after the strangers': right ones, and 30 faults.

They were written in one go, from `docs/laws.md`, the list of claims and the signatures of
`trainkit.laws.oracles.PAPERS`, by someone who had read the code that runs the laws (`api`,
`subject`, `runs`) but none of the laws: a third matrix rules, a third wrappers, a third schedules
and rules for one coordinate; `styles` has right ones alone. `docs/laws.md` has the first run as it
fell. Afterwards two right rules changed: the convolutions of one were not those that Scion's
authors have, and a schedule dropped a step after Optax's. With them changed their faults.
`python -m tests.laws.newcomer_mutants` prints the score.
"""

from __future__ import annotations

import sys

from tests.laws.mutants import score
from tests.laws.newcomers import matrices, rest, styles, wrappers
from tests.laws.stranger_mutants import NOT_SAID

FILES = (matrices, wrappers, rest, styles)
MUTANTS = tuple(m for file in FILES for m in file.CASES.wrong)
CORRECT = tuple(m for file in FILES for m in file.CASES.right)

SURVIVORS: dict[str, str] = {
    "largest: the largest of the last two, not of all": NOT_SAID,
}


if __name__ == "__main__":
    sys.exit(score(list(MUTANTS), SURVIVORS, sys.argv[1:]))
