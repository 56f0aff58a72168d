"""Optimizer states whose slots do not have the shape of their parameter; one class a file.

Input: a direction (expand or contract), a state, and the shapes of the result. Output: the state
for the other model. Read `adafactor` first.
"""
