"""`fit`: the loop around a step, and everything that is opened, written and closed around it.

Input: a step, a state and data with a position. Output: the last state and how the run ended; in
the run's folder metrics, checkpoints, a summary and a report. Read `fit` first, then `session`,
whose `until_stopped` is the loop itself.
"""
