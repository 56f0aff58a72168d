"""The laws of schedules, functions from a step count to a value.

In: a `ScheduleSubject`. Out: `Violation`s. `laws` holds what every schedule obeys and the list,
`promises` what one may claim. Read `laws` first.
"""
