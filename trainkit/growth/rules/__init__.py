"""What each primitive does to axes, scales and splits: one file a family."""

from trainkit.growth.analysis.joint_program import Rule
from trainkit.growth.rules import (
    contractions,
    control,
    elementwise,
    indexing,
    matrices,
    pieces,
    reductions,
    shapes,
)
from trainkit.growth.rules.top_k import indices

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **contractions.RULES,
    **reductions.RULES,
    **shapes.RULES,
    **pieces.RULES,
    **indexing.RULES,
    **matrices.RULES,
    **control.RULES,
    **indices.RULES,
}
UNKNOWN = control.UNKNOWN

__all__ = ["RULES", "UNKNOWN"]
