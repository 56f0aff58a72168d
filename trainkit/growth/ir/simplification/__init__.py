"""Simplification: an equal program with fewer equations, if some inputs are 0, 1 or the identity.

Input: a flat `Program`, and which of its inputs are zero, one or identity matrices. Output: the
program that is left. `identities` says what a product with an identity matrix is. `parts`,
`masks` and `turns` recognise a value that was taken apart and put together again, or transposed and
back, and `clips` one that is clipped twice. `evaluation` computes what is known, `opened_loops`
writes loops out before, and `leaf_parts` makes inputs of the parts of others (`cuts` says how
equations are cut). Read `partial_evaluation` first.
"""
