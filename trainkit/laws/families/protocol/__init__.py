"""Laws of the `optax.GradientTransformation` protocol: trees, dtypes and side effects.

Input: a `Subject`. Output: `Violation`s. Read `structure` first.
"""
