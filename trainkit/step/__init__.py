"""One training step: loss, gradients, the transformation, and the new state.

Input: a loss function, a gradient transformation and a placement. Output: `step(state, batch) ->
(state, metrics)`, compiled, and the same for evaluation. Knows placements, but no model and no
loop. Read `train_step` first, then `program`, which it compiles.
"""
