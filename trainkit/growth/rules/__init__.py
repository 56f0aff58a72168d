"""Rules: what each primitive does to axes, scales and shares. One file a family of primitives.

Input: one equation of both programs (`EquationPair`). A `Rule` has two functions: `axes` unifies
the axes of the operands and creates the results, and `scales` propagates scales, shares and padding
from operands to results. A primitive without a rule gets `UNKNOWN`. Read `elementwise` first.
"""

from trainkit.growth.analysis.joint_program import Rule
from trainkit.growth.rules import (
    contractions,
    control,
    elementwise,
    indexing,
    matrices,
    reductions,
    rows,
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
    **rows.RULES,
    **matrices.RULES,
    **control.RULES,
    **gather_scatter.RULES,
}
UNKNOWN = control.UNKNOWN

__all__ = ["RULES", "UNKNOWN"]
