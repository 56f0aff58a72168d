"""What the rules claim of the results of two programs, given facts about the inputs.

Tests of rules use this: they compare the claims for programs of one equation with computed values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trainkit.growth.analysis.conflicts import catch_refusal
from trainkit.growth.analysis.joint_program import Analysis, EquationPair, JointProgram
from trainkit.growth.analysis.layout_search import asked_layouts
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis
from trainkit.growth.axes.layouts import Layouts
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.errors import unwrap
from trainkit.growth.ir.program import Program


class Claims(NamedTuple):
    """A pair of programs after scale propagation.

    Attributes:
      scales: its linear equations for scales and shares, and its conditions on padding.
      pairs: the paired equations.
      outs: the results. Claims about them are expressions in the unknowns of the inputs.
      leaves: axis leaves that grow, by uid; `scales.source` has their index maps.
    """

    scales: ScalePropagation
    pairs: list[EquationPair]
    outs: list[Value]
    leaves: dict[int, Axis]


def claims(
    analysis: Analysis,
    programs: tuple[Program, Program],
    inputs: Sequence[Value],
    layout: Callable[[Axis], str],
    known: Callable[[ScalePropagation], None],
) -> Claims:
    """Joins two programs and propagates facts about their inputs.

    Args:
      analysis: has the rules.
      programs: the small and the big one.
      inputs: their arguments, with axes.
      layout: axis leaf -> its layout, for leaves whose layout no equation fixes.
      known: sets scale, exponents, zeros and means of the inputs.

    Raises:
      GrowthError: a rule refuses.
    """
    values = list(inputs)
    joint = JointProgram(analysis, values, *unwrap(analysis.join(*programs, values)))
    asked = unwrap(asked_layouts(analysis, analysis.forced))
    leaves = {x.uid: x for v in joint.all_values() for a in v.axes for x in grown_leaves(a)}
    names = {uid: layout(leaf) for uid, leaf in leaves.items()}
    scales = ScalePropagation(joint, Layouts({**names, **asked}))

    def run() -> None:
        known(scales)
        scales.run(joint.pairs)
        for v in joint.outs:
            scales.read(v)

    unwrap(catch_refusal("scales", run))
    return Claims(scales, joint.pairs, joint.outs, leaves)
