"""Restoring parts of a saved state into another model, optimizer, dtype, placement or size.

Input: the leaves of a step, and a tree to fill. Output: that tree, and lists of the leaves that
were taken, changed, not taken and kept. Read `restore` first.
"""
