"""The format of one checkpoint on disk: how a step is written, read and checked.

Input: a folder and a step. Output: a state and its `info`, or a DamagedError. Read `step` first.
"""
