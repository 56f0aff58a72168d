"""The laws of transformations: one folder for each section of a report, one file a family.

Input: a `Subject`. Output: a `Violation`, or `None` where the law holds. Each file ends with its
list `LAWS`. Read `protocol/structure` first; it is the simplest.
"""
