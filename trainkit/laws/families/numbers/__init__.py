"""Laws of agreement with a reference, precision, extreme numbers, descent and noise.

Input: a `Subject`. Output: `Violation`s. Read `agreement` first.
"""
