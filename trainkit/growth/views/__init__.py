"""What else a plan and a map tell.

In: `PlanData` or `MapData`, and arrays. `mup`: multipliers of learning rates; `prune` (with
`scores`): which units stay in a smaller model; `activations`: what units do on a batch; `certify`:
what a growth did, measured (`measures`, `outputs`, `warnings`), as a `certificate`.
Read `certificate` first.
"""
