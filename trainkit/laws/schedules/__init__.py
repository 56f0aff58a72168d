"""The laws of schedules (functions from a step count to a value).

Input: a `ScheduleSubject`. Output: `Violation`s. `laws` holds the laws of every schedule and the
list of all; `promises` holds the laws of optional claims. Read `laws` first.
"""
