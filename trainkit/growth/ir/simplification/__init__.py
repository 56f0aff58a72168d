"""Simplification: an equal program with fewer equations, if some inputs are 0 or the identity.

Input: a flat `Program`, and which of its inputs are zero or identity matrices. Output: the program
that is left. `parts` and `masks` recognise a value that was taken apart and put together again.
Read `partial_evaluation` first.
"""
