"""Views: other uses of a plan or a map.

Input: `PlanData` or `MapData`, and arrays. `mup` computes the multipliers of the maximal-update
parametrisation. `prune` (with `scores`) chooses the units of a smaller model. `activations`
measures units on a batch. `explanation` and `picture` show a plan. `certify` measures what a growth
changed and returns a `certificate`. Read `certificate` first.
"""
