"""States that do not keep one number an entry of their leaf, one class a file.

In: a direction (expand or contract), a state, and the shapes of what it becomes. Out: the state
there. Read `adafactor` first.
"""
