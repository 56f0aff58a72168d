"""Intermediate representation: traced programs in a normal form, and dataflow analysis.

Input: a function and the shapes of its arguments. Output: a flat `Program`, and facts about its
values. `trace` and `program` inline calls and fold constants. `variance`, `lookups`, `loops` and
`products` rewrite equivalent expressions into one form. `primitives` is the table of what
primitives do.
`dataflow` is the driver that propagates facts; `zero_analysis`, `simplification` and
`custom_gradients` use both. Read `program` first, then `primitives` and `dataflow`.
"""
