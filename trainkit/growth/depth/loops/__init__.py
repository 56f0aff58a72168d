"""Loops over layers that run more often in the big model.

Input: a flat program, and which rows of its stacked parameters are new. Output: what these rows
have to be so that new iterations change nothing, and the program without these iterations.
`layer_axes` finds parameters that a loop runs over, `resting_iterations` what new rows of them are,
and `shortened_loops` takes the iterations out. Read `layer_axes` first.
"""
