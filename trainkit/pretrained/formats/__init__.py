"""Formats of checkpoints. Each reads and writes one tensor at a time.

Input: a path. Output: a `Tensors`, with the shapes of all tensors, `read` for one, and `write` for
a checkpoint of the same format. Read `tensors` first, then `safetensors_files`.
"""
