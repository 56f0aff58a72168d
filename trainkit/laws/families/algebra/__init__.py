"""Laws of composition, batching, masking, accumulation, and symmetry.

Input: a `Subject`. Output: `Violation`s. Read `composition` first.
"""
