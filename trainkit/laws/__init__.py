"""Laws of update rules and schedules: a property-testing kit for Optax-style transformations."""

from trainkit.laws.claims import CLAIMS
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.oracles import DEVIATIONS, RULES, SCHEDULES
from trainkit.laws.pytest_plugin import parametrize
from trainkit.laws.report import Failure, LawError, Report, Result
from trainkit.laws.runner import ALL, SCHEDULE_LAWS, TRANSFORMATION_LAWS, check, check_schedule

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
