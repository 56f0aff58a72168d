"""Plans: frozen data that say how every leaf grows, and where leaves of new layers come from.

Input: the result of the analysis, or two parameter trees that are matched by name (`experts`,
`groups`). Output: `PlanData`, JSON text, a table. This package does not know how a plan is applied.
Read `data` first.
"""
