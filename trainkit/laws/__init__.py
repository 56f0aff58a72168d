"""Laws of update rules and schedules: a property-testing kit for Optax-style transformations.

In: a transformation (or schedule), and what it claims to be. Out: a `Report` of every law, with the
smallest input and a program for each failure. `api` is what users call, `runner` runs laws on a
`subject`; `families` and `schedules` hold the laws, `oracles` the float64 references, `problems`
what rules are tried on, `reproducers` how a failure is written down as code. Read `api` first.
"""

from trainkit.laws.api import ALL, check, check_schedule, parametrize
from trainkit.laws.claims import CLAIMS
from trainkit.laws.families.order import TRANSFORMATION_LAWS
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.oracles import DEVIATIONS, RULES, SCHEDULES
from trainkit.laws.report import Failure, LawError, Report, Result
from trainkit.laws.schedules.laws import LAWS as SCHEDULE_LAWS

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
]
