"""Taking what fits of a saved state into another model, optimizer, dtype, placement or size.

Input: the leaves of a step, and a tree that they are to go into. Output: that tree, and a list of
what was taken, changed, left and kept. Read `restore` first.
"""
