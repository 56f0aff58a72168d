"""Mutation testing: plants small faults in the sources, one at a time, and runs the tests.

    python -m tools.faults trainkit/growth/rules --count 120 --seed 0

Input: source files and tests. Output: for each fault, the test that fails, or "survived".
`expressions` and `statements` define the faults, `exclusions` what is not mutated, and `sample`
draws them. `baseline` records which test runs which line, `trials` runs the tests that reach a
fault, and `report` sums up. Read `sites` first.
"""
