"""Analysis: from the small and the big program of one model to a plan.

Input: two flat `Program`s with the same equations, and their arguments. Output: a `PlanData`, or a
`Conflict` that says why growth is impossible. `joint_program` pairs the equations and unifies axes,
`layout_search` chooses index maps, `scales` collects linear equations for scales and shares, and
`shares` and `emit` solve them. `solve` retries with other layouts. Read `solve` first, then
`joint_program`.
"""
