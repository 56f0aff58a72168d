"""From two programs of one model to a plan: axes, layouts, scales, shares and padding.

In: two flat `Program`s of one structure, and the values of their arguments. Out: a `Plan`, or a
`Conflict` that says what stands in the way. `joint_program` pairs the equations and unifies axes,
`layout_search` chooses index maps, `scales` carries the unknowns through, `shares` and `emit` solve
for them; `solve` tries other layouts where one fails. Read first: `solve`, then `joint_program`.
"""
