"""What each primitive does to axes, scales and splits: one file a family."""

from trainkit.growth.analysis.joint_program import Rule
from trainkit.growth.rules import (
    contractions,
    control,
    elementwise,
    indexing,
    matrices,
    reductions,
    shapes,
    slices,
)
from trainkit.growth.rules.top_k import gather_scatter

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **contractions.RULES,
    **reductions.RULES,
    **shapes.RULES,
    **slices.RULES,
    **indexing.RULES,
    **matrices.RULES,
    **control.RULES,
    **gather_scatter.RULES,
}
UNKNOWN = control.UNKNOWN

__all__ = ["RULES", "UNKNOWN"]
