"""Hooks that are ready: what `fit(hooks=[…])` takes, with a memory that survives a resume.

Input: the run between two steps (`trainkit.Now`). Output: what is to change (`trainkit.Change`), or
nothing. Read `plateau` first.
"""

from trainkit.hooks.plateau import ReduceOnPlateau
from trainkit.hooks.profile import Profile

__all__ = ["Profile", "ReduceOnPlateau"]
