"""A plan: frozen data that say how every leaf grows, what each of its axes is made of, and where
leaves of new layers come from.

In: what the analysis found, or two trees whose leaves tell by name (`experts`, `groups`).
Out: `PlanData`, JSON text, a table. Nothing here knows what is done with a plan.
Read `data` first.
"""
