"""Advice before a run: whether to grow, from which size, when and how, from short runs.

Input: what `progressive` takes, and a budget. Output: an `Advice` with the loss that is expected
of every choice, its interval, and the FLOPs that it cost to find out. `choices` says what is
compared, `probes` trains it, `curves` extrapolates, `decision` decides. Read `advise` first.
"""
