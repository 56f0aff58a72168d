"""Scale propagation: the scale, share exponents and padding of every value.

Input: a `JointProgram` and one choice of `Layouts`. Output: a `ScalePropagation` (two systems of
linear equations, the contractions, and the conditions on padding units), or a `Conflict`. Rules of
primitives call its methods, `contract` for sums of products, and `move` for moved elements. Read
the formula at the top of `unknowns` first, then `propagation`.
"""
