"""Axes of the two programs: which axes are equal, and which old unit each new unit copies.

Input: axis sizes n → m, unified by the equations that use them (`unify`). Output: the structure of
every axis in a union-find of leaves, products and sums (`Axis`), and index maps int64[m] for a
choice of layouts. `linear` and `solvers` are the linear systems for scales and shares. This package
knows no programs and no plans. Read `axis` first, then `unification`.
"""
