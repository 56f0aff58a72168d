"""Reproducers: programs that show a failure with JAX and Optax alone.

Input: the rule under test, and the values of a counterexample. Output: lines of Python. `source`
writes the rule as code, `literals` the values, and `programs` the statements. Read `source` first.
"""
