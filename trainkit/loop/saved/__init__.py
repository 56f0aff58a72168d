"""What a checkpoint of one step is on disk: how it is written, read and checked.

Input: a folder and a step. Output: a state and its `info`, or what is damaged. Read `step` first.
"""
