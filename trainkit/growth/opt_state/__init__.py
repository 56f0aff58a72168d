"""Optimizer states: how they grow, and exact continuation.

Input: a gradient transformation, its state, and a map of the parameters. Output: the state of the
same transformation for the other model; `exact` returns a transformation. Every slot has a degree
in weight and gradient (`slots`, `table`; measured by `degrees`). `traversal` visits nested states,
`grow` expands or contracts each slot, and `states` has the classes with arithmetic of their own.
Read `slots` first, then `grow`.
"""
