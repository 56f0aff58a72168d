"""What stands around a rule: accumulation, averages, a guard, 8-bit moments, stochastic rounding.

Input: a gradient transformation. Output: another one. Read `accumulate` first.
"""
