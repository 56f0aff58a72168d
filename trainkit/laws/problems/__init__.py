"""What rules are tried on: trees, trajectories, and how a failing one is made small."""
