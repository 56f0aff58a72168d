"""Programs that show a failure with nothing but JAX and Optax.

In: the rule that was given, and the values of a counterexample. Out: lines of Python. `source`
writes a rule down again, `literals` values, `programs` what is run. Read `source` first.
"""
