"""The rule under test: its runs, what it needs, two ways to one update, a failure made small.

In: a transformation or its factory, and what it claims. Out: memoised runs, and violations with the
smallest input that shows them. Read `subject` first.
"""

from trainkit.laws.subject.subject import Crash, Subject, mini

__all__ = ["Crash", "Subject", "mini"]
