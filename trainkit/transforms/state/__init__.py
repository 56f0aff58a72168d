"""States that are read, changed and edited by name, and groups of parameters by path.

Input: transformations, or their live states. Output: the same. Read `named` first.
"""
