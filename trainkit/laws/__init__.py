"""Laws: property-based tests for Optax-style transformations and schedules.

Input: a transformation or schedule, and its claims. Output: a `Report` on every law, with a shrunk
counterexample and a program for each failure. `api` has the public functions, `runner` runs laws on
a `subject`. `families` and `schedules` hold the laws, `oracles` the float64 references, `problems`
the test inputs, and `reproducers` the code generation for failures. Read `api` first.
"""

from trainkit.laws.api import ALL, check, check_schedule, parametrize
from trainkit.laws.claims import CLAIMS
from trainkit.laws.families.listing import TRANSFORMATION_LAWS
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.oracles import DEVIATIONS, RULES, SCHEDULES
from trainkit.laws.report import Failure, LawError, Report, Result
from trainkit.laws.schedules.laws import LAWS as SCHEDULE_LAWS
from trainkit.laws.scopes import scope

__all__ = [
    "ALL",
    "CLAIMS",
    "DEVIATIONS",
    "RULES",
    "SCHEDULES",
    "SCHEDULE_LAWS",
    "TRANSFORMATION_LAWS",
    "Failure",
    "Law",
    "LawError",
    "NotApplicable",
    "Report",
    "Result",
    "Violation",
    "check",
    "check_schedule",
    "parametrize",
    "scope",
]
