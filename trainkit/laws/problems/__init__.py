"""What rules are tried on: trees of every form, trajectories, and how results are compared.

In: a seed, a dtype. Out: `cases.Batch`es of parameters and gradients, `runs.Runs` of updates, the
first `comparison.Mismatch`. Nothing here knows of rules or laws. Read `cases` first.
"""
