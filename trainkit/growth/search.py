"""The search for a plan: alignments of layers, and the widths of each."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.solve import solve_width
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import find
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.axes.structures import structure_of
from trainkit.growth.depth.alignment import PLACES
from trainkit.growth.depth.assembly import depth_candidates
from trainkit.growth.depth.candidate import DepthCandidate
from trainkit.growth.depth.flat_model import FlatModel
from trainkit.growth.depth.new_leaves import assemble
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.program import Folder, Program
from trainkit.growth.mismatches import Leaves, mismatch
from trainkit.growth.plan.data import PlanData, Structure, unchanged
from trainkit.growth.plan.inputs import GrownInput, NewInputs
from trainkit.growth.rules import RULES, UNKNOWN

COPYING = ("stack", "interpose", "middle", "last")  # operators that change the function
ALIKE = 8  # alignments that fail for one reason, in whichever layer, before an order is left


class Models(NamedTuple):
    """The two models as programs.

    Attributes:
      small, big: their flat programs, with the shapes of their parameters.
      leaves: paths, shapes and dtypes of their parameters.
      inputs: the arguments of both after the parameters.
      new: what the user says of new inputs.
      results: names of the results, for messages.
      guessed: numbers of the small model's parameters whose gradients are not derivatives.
      folder: flattens jaxprs, and shares constants between the programs.
    """

    small: FlatModel
    big: FlatModel
    leaves: tuple[Leaves, Leaves]
    inputs: list[GrownInput]
    new: NewInputs | None
    results: list[str]
    guessed: set[int]
    folder: Folder


class _Failures:
    """The conflicts of alignments so far.

    Alignments that fail for one reason end the search among those of one order, because which
    layers are new is not the obstacle. A reason about an axis of parameters is tried only twice.
    """

    def __init__(self) -> None:
        self._unaligned: Conflict | None = None
        self._refused: Conflict | None = None
        self._reasons: set[tuple[str | None, ...]] = set()
        self._alike: Counter[Any] = Counter()

    @property
    def likeliest(self) -> Conflict | None:
        return self._refused or self._unaligned

    def another_order(self) -> None:
        """Layers in another order may have other constants."""
        self._alike.clear()

    def to_align(self, conflict: Conflict) -> bool:
        """Whether the search ends, after a conflict of layers that are no identities."""
        self._unaligned = self._unaligned or conflict
        return self._often(re.sub(r"\d+", "", conflict.why))

    def to_widen(self, conflict: Conflict) -> bool:
        """Whether the search ends, after a conflict of widths."""
        self._refused = self._refused or conflict
        about = (conflict.kind, conflict.axis, conflict.primitive, conflict.source)
        if conflict.kind == "programs":
            return False
        if not conflict.params:  # about no axis of a parameter: perhaps a constant of a layer
            return self._often(about)
        known = about in self._reasons
        self._reasons.add(about)
        return known

    def _often(self, reason: Any) -> bool:
        self._alike[reason] += 1
        return self._alike[reason] >= ALIKE


def search(
    models: Models,
    depth: str,
    trainable: Callable[[str], bool],
    append: Sequence[tuple[str, int]],
) -> PlanData | Conflict:
    """The plan of the first alignment of layers that has one, or the likeliest one's conflict."""
    small, big = models.small, models.big
    failed = _Failures()
    tried: list[Any] = []
    for place in PLACES if depth == PLACES[0] else (depth,):
        failed.another_order()
        for candidate in depth_candidates(
            small, big, depth, models.folder, trainable, place, tried
        ):
            if isinstance(candidate, Conflict):
                if failed.to_align(candidate):
                    break
                continue
            widths = _widths(models, candidate, append, depth)
            if isinstance(widths, Conflict):
                if failed.to_widen(widths):
                    break
                continue
            dtypes = {name: str(leaf.dtype) for name, leaf in models.leaves[1]}
            return assemble(widths, candidate, big.shapes, dtypes, depth)
    if failed.likeliest is not None:
        return failed.likeliest
    return width(models, _same_layers(models), append, depth)


def _same_layers(models: Models) -> DepthCandidate:
    """The candidate without new layers."""
    small, big = models.small, models.big
    same = {name: name for name in small.shapes}
    return DepthCandidate({}, same, big.shapes, small.program, big.program, {})


def fused_axes(models: Models) -> dict[tuple[int, int], Structure]:
    """Sizes of a parameter's axis -> its factors, where the programs split it into some.

    Of axes with one factor that grows, as `heads × size`. They are known up to the equation at
    which the two programs differ.
    """
    ranks = [{name: len(leaf.shape) for name, leaf in side} for side in models.leaves]
    if ranks[0] != ranks[1]:
        return {}
    candidate = _same_layers(models)
    assert candidate.big is not None
    analysis, values = _started(models, candidate)
    analysis.join(*_in_one_order(models, candidate, candidate.big), values)
    axes = [find(axis) for _, value in analysis.params for axis in value.axes]
    return {
        (axis.small, axis.big): structure_of(axis, lambda leaf: 0)
        for axis in axes
        if axis.kind == "prod" and all(find(part).kind == "leaf" for part in axis.parts)
        if len(grown_leaves(axis)) == 1
    }


def _started(models: Models, candidate: DepthCandidate) -> tuple[Analysis, list[Value]]:
    """An analysis, and the values of parameters, identity matrices and inputs."""
    small, big = models.leaves
    dtypes = {name: leaf.dtype for name, leaf in big}
    analysis = Analysis(RULES, UNKNOWN, models.folder)
    sizes = [(candidate.old[name], s.shape, s.dtype) for name, s in small]
    sizes += [(name, shape, dtypes[name]) for name, shape in candidate.eyes.items()]
    for i, (name, shape, dtype) in enumerate(sizes):
        analysis.params.append((name, Value(shape, candidate.shapes[name], dtype, origin=i)))
    if models.new is not None:
        analysis.inputs, analysis.new = models.inputs, models.new
    inputs = [Value(x.small, x.big, x.dtype) for x in models.inputs]
    return analysis, [*(value for _, value in analysis.params), *inputs]


def _widths(
    models: Models, candidate: DepthCandidate, append: Sequence[tuple[str, int]], depth: str
) -> PlanData | Conflict:
    """The plan of the small model's leaves, for one alignment of layers."""
    small, big = models.leaves
    wrong = mismatch(small, dict(big), candidate.old, candidate.shapes)
    if wrong is not None:
        return wrong
    if candidate.big is not None:
        return width(models, candidate, append, depth)
    leaves = (unchanged(candidate.old[name], tuple(s.shape), str(s.dtype)) for name, s in small)
    return PlanData(tuple(leaves), ())


def width(
    models: Models, candidate: DepthCandidate, append: Sequence[tuple[str, int]], depth: str
) -> PlanData | Conflict:
    """The plan between two programs of one structure: `candidate.small` and `candidate.big`."""
    assert candidate.big is not None
    small, _ = models.leaves
    analysis, values = _started(models, candidate)
    analysis.more_passes = depth in COPYING
    programs = _in_one_order(models, candidate, candidate.big)
    new = [program.ins[len(program.ins) - len(candidate.channels) :] for program in programs]
    for before, after, axis in zip(*new, candidate.channels, strict=True):
        values.append(Value(before.aval.shape, after.aval.shape, after.aval.dtype))
        analysis.force(values[-1].axes[axis], "append")
    result = solve_width(analysis, programs, values, models.results, append)
    if isinstance(result, Conflict):
        return result
    guessed = {candidate.old[small[i][0]] for i in models.guessed}
    leaves = [
        dataclasses.replace(leaf, calibrated=True) if leaf.path in guessed else leaf
        for leaf in result.leaves
    ]
    changes = depth if analysis.passes else None  # a loop runs more often
    return dataclasses.replace(result, leaves=tuple(leaves), depth=changes)


def _in_one_order(
    models: Models, candidate: DepthCandidate, big: Program
) -> tuple[Program, Program]:
    """Both programs with inputs in one order: parameters, identity matrices, other inputs."""
    place = {name: i for i, name in enumerate(models.big.shapes)}
    names = [*(candidate.old[name] for name in models.small.shapes), *candidate.eyes]
    ins = [*(big.ins[place[name]] for name in names), *big.ins[len(place) :]]
    # Identity matrices are the last inputs of the small program.
    n, m = len(models.small.shapes), len(candidate.small.ins) - len(candidate.eyes)
    order = [*candidate.small.ins[:n], *candidate.small.ins[m:], *candidate.small.ins[n:m]]
    return (
        Program(order, candidate.small.equations, candidate.small.outs),
        Program(ins, big.equations, big.outs),
    )
