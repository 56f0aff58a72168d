"""How strong are the tests? Plants small faults in the sources, one at a time, and runs the tests.

    python -m tools.faults trainkit/growth/rules --count 120 --seed 0

In: source files and tests. Out: for each fault the test that fails because of it, or "survived".
`expressions` and `statements` say which faults there are, `exclusions` what is left alone, `sample`
which are drawn; `baseline` notes which test runs which line, `trials` runs the tests that concern a
fault, `report` sums up. Read `sites` first.
"""
