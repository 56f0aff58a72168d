"""Axes of the two programs: which are one, what they are made of, and which unit copies which.

In: sizes n → m, joined where an equation joins them (`unify`). Out: the structure of every axis, as
a union-find of leaves, products and sums (`Axis`); for a choice of layouts, index maps int64[m].
Systems of linear equations, which scales and splits are solved by, and their solvers stand beside
it. Nothing here knows of programs or plans. Read first: `axis`, then `unification`.
"""
