"""Optimizer states through a growth, and exact continuation.

In: a transformation, its state, and a map of the parameters. Every slot is of some degree in weight
and gradient (`slots`, `table`; measured in place by `degrees`), `traversal` walks the states inside
states, `grow` expands or contracts each slot, `states` has those with arithmetic of their own.
Out: the state of the same transformation for the other model; `exact` makes a transformation.
Read `slots` first, then `grow`.
"""
