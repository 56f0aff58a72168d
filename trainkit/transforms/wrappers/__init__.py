"""Wrappers: accumulation, averages, a non-finite guard, 8-bit moments, stochastic rounding.

Input: a gradient transformation. Output: another one. Read `accumulate` first.
"""
