"""What each primitive does to axes, scales and splits: one file a family."""

from trainkit.growth.lockstep import Rule
from trainkit.growth.rules import (
    contractions,
    control,
    elementwise,
    indexing,
    matrices,
    picks,
    pieces,
    reductions,
    shapes,
)

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **contractions.RULES,
    **reductions.RULES,
    **shapes.RULES,
    **pieces.RULES,
    **indexing.RULES,
    **matrices.RULES,
    **control.RULES,
    **picks.RULES,
}
UNKNOWN = control.UNKNOWN

__all__ = ["RULES", "UNKNOWN"]
