"""Test problems: parameter trees, gradient trajectories, and the comparison of results.

Input: a seed and a dtype. Output: `cases.Batch`es of parameters and gradients, `runs.Runs` of
updates, and the first `comparison.Mismatch`. This package knows no rules and no laws. Read `cases`
first.
"""
