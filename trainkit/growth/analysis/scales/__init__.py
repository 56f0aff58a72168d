"""Scales, share exponents and padding of every value, carried through the joint program.

In: a `JointProgram` and one choice of `Layouts`. Out: a `ScalePropagation` (two systems of linear
equations, the contractions met, the needs of padding), or a `Conflict`. The rules of primitives
call its methods, `contract` for sums of products and `move` for what moves elements. Read first:
the formula at the top of `unknowns`, then `propagation`.
"""
