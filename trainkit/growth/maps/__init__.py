"""From a plan to arrays.

In: `PlanData`, a random key and an operator. `realise` draws what is random and gives `MapData`,
one `LeafMap` (index maps and factors) a leaf; `params` grows a tree of parameters by it. `kernel`
is the one operation on arrays (expand, its adjoint fold, gather), `algebra` says with which powers
of the factors a value grows. Read `leaf_map` first, then `growth_map`.
"""
