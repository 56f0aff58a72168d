"""What the rules claim of the results of two programs, given what is known of their inputs.

The tests of each primitive's rule ask this of programs of one equation, and hold the answer against
what the programs compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trainkit.growth.analysis.joint_program import Analysis, EquationPair, Value
from trainkit.growth.analysis.layout_search import all_pairs, give_layout
from trainkit.growth.analysis.scales import ScalePropagation
from trainkit.growth.analysis.solve import fresh_scales
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import LAYOUTS
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.ir.program import Program


class Claims(NamedTuple):
    """A pair of programs after scale propagation.

    Attributes:
      scales: its equations of scales and splits, and what padding has to hold.
      pairs: the paired equations.
      outs: the results; what is claimed of them are expressions in the inputs' unknowns.
      leaves: those that grow, by uid; their maps are set.
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
    given: Callable[[ScalePropagation], None],
) -> Claims:
    """Walks two programs in lockstep and carries what is given through them.

    Args:
      analysis: with the rules.
      programs: the small and the big one.
      inputs: their arguments, with axes.
      layout: chooses how a leaf grows, where no equation asks for a layout.
      given: sets scale, exponents, zeros and means of the inputs.

    Raises:
      GrowthError: a rule refuses.
    """
    values = list(inputs)
    pairs, outs = analysis.walk(*programs, values)
    layouts: dict[int, str] = {}
    leaves: dict[int, Axis] = {}
    every = [*values, *outs]
    for pair in all_pairs(pairs):
        every += [*pair.ins, *pair.outs]
        every += [v for body in pair.bodies for v in (*body.ins, *body.outs)]
    for leaf in dict.fromkeys(x for v in every for a in v.axes for x in grown_leaves(a)):
        name = layout(leaf)
        layouts[leaf.uid], leaves[leaf.uid] = name, leaf
        leaf.source = LAYOUTS[name](leaf.small, leaf.big)
    bound: set[int] = set()
    for axis, name, asked in analysis.forced:
        give_layout(analysis, find(axis), name, asked, layouts, bound)
    scales = fresh_scales(analysis, pairs=pairs, values=values, outs=outs, layouts=layouts)
    given(scales)
    scales.run(pairs)
    for v in outs:
        scales.read(v)
    return Claims(scales, pairs, outs, leaves)
