"""Maps: from a plan to arrays.

Input: a `PlanData`, a random key and an operator. `realise` draws the random values and returns a
`MapData`: one `LeafMap` (index maps and factors) for each leaf. `params` grows a tree of parameters
with it. `kernel` is the array operation (expand, its adjoint fold, gather). `algebra` raises the
factors to the powers that a value needs. Read `leaf_map` first, then `growth_map`.
"""
