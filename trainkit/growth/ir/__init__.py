"""Programs as growth reads them, and what is known of the values in them.

In: a function and the shapes of its arguments. Out: a flat `Program` of one form, and facts about
its values. `trace` and `program` make it: calls are inlined, constants folded, and what may be
written in several ways is written in one (`variance`, `lookups`, `products`). `primitives` is the
one table of what primitives do, `dataflow` the one driver that carries facts from operands to
results; `zero_analysis`, `partial_evaluation` and `custom_gradients` ask both. Read first:
`program`, then `primitives` and `dataflow`.
"""
