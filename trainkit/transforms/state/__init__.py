"""Optimizer states by name: read, set and edit them; parameter groups by path.

Input: transformations, or their states. Output: the same types. Read `named` first.
"""
