"""One training step: loss, gradients, the gradient transformation, and the new state.

Input: a loss function, a gradient transformation and a placement. Output: a compiled
`step(state, batch) -> (state, metrics)`, and the same for evaluation. It knows placements, but no
model and no loop. Read `train_step` first, then `program`, the function it compiles.
"""
