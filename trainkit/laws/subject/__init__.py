"""The rule under test: its runs, its requirements, comparisons of two updates, and shrinking.

Input: a transformation or its factory, and its claims. Output: memoised runs, and violations with
the smallest input that shows them. Read `subject` first.
"""

from trainkit.laws.subject.subject import Crash, Subject, mini

__all__ = ["Crash", "Subject", "mini"]
