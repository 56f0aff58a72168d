"""All passes of planning: from two functions and the shapes of their parameters to `PlanData`."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.solve import solve_width
from trainkit.growth.analysis.values import Value
from trainkit.growth.depth.assembly import DepthCandidate, assemble, depth_candidates
from trainkit.growth.depth.flat_model import FlatModel
from trainkit.growth.depth.layer_cut import without_passes
from trainkit.growth.errors import Conflict, GrowthError
from trainkit.growth.ir.custom_gradients import unproved
from trainkit.growth.ir.program import Folder, Program
from trainkit.growth.ir.source_lines import uses
from trainkit.growth.ir.trace import named_shapes, shape_of, structs, traced_program
from trainkit.growth.mismatches import check_leaves, mismatch, same_results, structure
from trainkit.growth.operators import Operator, operator
from trainkit.growth.plan.data import PlanData, unchanged
from trainkit.growth.plan.experts import upcycled
from trainkit.growth.plan.groups import repeats
from trainkit.growth.plan.inputs import GrownInput, NewInputs, grown_inputs
from trainkit.growth.remedies import with_copied_layers, with_larger_axis
from trainkit.growth.rules import RULES, UNKNOWN
from trainkit.growth.rules.control import NO_PASSES, PASSES

PyTree = Any
Leaves = list[tuple[str, jax.ShapeDtypeStruct]]
COPYING = ("stack", "interpose", "middle", "last")  # operators that change the function
TRIED = 1000  # equations of a program for which another call is tried before it is advised
ALIKE = 8  # alignments that fail for one reason, in whichever layer, before the search ends


def plan(
    small_fn: Callable[..., PyTree],
    big_fn: Callable[..., PyTree],
    small_params: PyTree,
    big_params: PyTree,
    *inputs: PyTree,
    append: Sequence[tuple[str, int]] = (),
    how: str | Operator = "identity",
    trainable: Callable[[str], bool] = lambda path: True,
    new: NewInputs | None = None,
) -> PlanData:
    """The data of `trainkit.growth.plan`; arguments and errors are documented there."""
    leaves = named_shapes(small_params, "small_params"), named_shapes(big_params, "big_params")
    trees: Any = jax.tree.structure(small_params), jax.tree.structure(big_params)
    check_leaves(*leaves)
    args = jax.tree.map(shape_of, inputs), jax.tree.map(shape_of, _arguments(inputs, new))
    flat = grown_inputs(*args, new)
    models = _traced((small_fn, big_fn), (small_params, big_params), leaves, args, flat, new)
    depth = operator(how).depth
    if new is not None and depth in ("groups", "experts"):
        raise GrowthError(
            f"how={depth!r} matches parameters by their names, and new inputs need a proof",
            hint="grow in two steps: first the inputs, with how='identity'",
        )
    if depth == "groups":
        return repeats(small_params, big_params, calibrated=True)
    if depth == "experts":
        return upcycled(*leaves, trees, dict(operator(how).names))
    result = _search(models, depth, trainable, append)
    if isinstance(result, Conflict) and models.folder.rewritten:
        # A table may have as many rows as a loop has passes in one of the models by accident.
        both = (small_fn, big_fn), (small_params, big_params)
        written = _traced(*both, leaves, args, flat, new, layered=False)
        again = _search(written, depth, trainable, append)
        models, result = (models, result) if isinstance(again, Conflict) else (written, again)
    lines = dict(zip(models.big.shapes, uses(models.big.program), strict=False))
    if isinstance(result, Conflict):
        result = _with_more_passes(models, depth, result)
    if isinstance(result, Conflict):

        def wider(params: PyTree) -> PlanData | Conflict:
            changed = leaves[0], named_shapes(params, "big_params")
            fns, trees = (small_fn, big_fn), (small_params, params)
            found = _traced(fns, trees, changed, args, flat, new)
            return _search(found, depth, trainable, append)

        if len(models.big.program.equations) < TRIED and new is None:
            result = with_larger_axis(result, structs(big_params), wider)
        if depth == "identity" and result.kind == "layers":
            other = lambda how: _search(models, how, trainable, append)
            result = with_copied_layers(result, other)
        raise result.error(lines)
    own = tuple(dataclasses.replace(leaf, lines=lines[leaf.path]) for leaf in result.leaves)
    own_trees = None if result.depth is None and trees[0] == trees[1] else trees
    return dataclasses.replace(result, leaves=own, trees=own_trees)


def _with_more_passes(models: _Models, depth: str, conflict: Conflict) -> PlanData | Conflict:
    """The plan of equal parameters that the big model uses more often, if it may; else why not."""
    small, big = models.leaves
    before, after = (Counter(_uses(side.program)) for side in (models.small, models.big))
    named = [[name for name, _ in side] for side in models.leaves]
    if models.new is not None or named[0] != named[1] or before == after or before - after:
        return conflict
    if depth in COPYING and _sizes(small) == _sizes(big):
        leaves = (unchanged(path, tuple(x.shape), str(x.dtype)) for path, x in small)
        return PlanData(tuple(leaves), (), depth=depth)
    shorter = without_passes(models.small.program, models.big.program, len(small))
    if conflict.hint == PASSES or (_sizes(small) != _sizes(big) and shorter is None):
        return conflict
    if depth in COPYING and shorter is not None:
        same = {name: name for name in models.small.shapes}
        shapes = models.big.shapes
        only = DepthCandidate({}, same, shapes, models.small.program, shorter, {})
        found = _width(models, only, (), depth)
        return found if isinstance(found, Conflict) else dataclasses.replace(found, depth=depth)
    why = f"{conflict.why}\n  perhaps shared weights are used more often, {NO_PASSES}"
    return dataclasses.replace(conflict, why=why, hint=PASSES)


def _uses(program: Program) -> Iterator[str]:
    """The primitives of a program; a loop counts as often as it runs."""
    for eqn in program.equations:
        yield from [eqn.name] * (eqn.params["length"] if eqn.name == "scan" else 1)


class _Models(NamedTuple):
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


def _traced(
    fns: tuple[Callable[..., PyTree], Callable[..., PyTree]],
    params: tuple[PyTree, PyTree],
    leaves: tuple[Leaves, Leaves],
    args: tuple[tuple[PyTree, ...], tuple[PyTree, ...]],
    inputs: list[GrownInput],
    new: NewInputs | None,
    layered: bool = True,
) -> _Models:
    """Traces both functions; `layered`: see `Folder`.

    Raises:
      GrowthError: one cannot be traced, or they return different structures.
    """
    small, small_out = traced_program(fns[0], structs(params[0]), args[0], "small")
    big, big_out = traced_program(fns[1], structs(params[1]), args[1], "big")
    if str(jax.tree.structure(small_out)) != str(jax.tree.structure(big_out)):
        raise GrowthError(
            f"the two functions return different structures: {structure(small_out)} in the small "
            f"and {structure(big_out)} in the big model",
            hint=same_results(small_out, big_out),
        )
    guessed = unproved(small, fns[0], structs(params[0]), args[0])
    results = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(small_out)]
    folder = Folder(layered=layered)
    first, second = (
        FlatModel(folder.flatten(program), _sizes(own))
        for program, own in zip((small, big), leaves, strict=True)
    )
    return _Models(first, second, leaves, inputs, new, results, set(guessed), folder)


def _arguments(inputs: tuple[PyTree, ...], new: NewInputs | None) -> tuple[PyTree, ...]:
    """The arguments of the big model."""
    if new is None or new.example is None:
        return inputs
    return tuple(new.example) if type(new.example) in (tuple, list) else (new.example,)


def _search(
    models: _Models,
    depth: str,
    trainable: Callable[[str], bool],
    append: Sequence[tuple[str, int]],
) -> PlanData | Conflict:
    """The plan of the first alignment of layers that has one, or the likeliest one's conflict."""
    small, big = models.small, models.big
    unaligned: Conflict | None = None
    refused: Conflict | None = None
    reasons: set[tuple[str | None, ...]] = set()
    alike: Counter[str] = Counter()
    for candidate in depth_candidates(small, big, depth, models.folder, trainable):
        if isinstance(candidate, Conflict):
            unaligned = unaligned or candidate
            reason = re.sub(r"\d+", "", candidate.why)
            alike[reason] += 1
            if alike[reason] == ALIKE:
                break  # in which layer it fails is not the obstacle
            continue
        widths = _widths(models, candidate, append, depth)
        if isinstance(widths, Conflict):
            refused = refused or widths
            about = (widths.kind, widths.axis, widths.primitive, widths.source)
            if about in reasons:
                break  # which layers are new is not the obstacle
            if widths.kind != "programs":
                reasons.add(about)
            continue
        dtypes = {name: str(leaf.dtype) for name, leaf in models.leaves[1]}
        return assemble(widths, candidate, big.shapes, dtypes, depth)
    conflict = refused or unaligned
    if conflict is not None:
        return conflict
    same = {name: name for name in small.shapes}
    only = DepthCandidate({}, same, big.shapes, small.program, big.program, {})
    return _width(models, only, append, depth)


def _widths(
    models: _Models, candidate: DepthCandidate, append: Sequence[tuple[str, int]], depth: str
) -> PlanData | Conflict:
    """The plan of the small model's leaves, for one alignment of layers."""
    small, big = models.leaves
    wrong = mismatch(small, dict(big), candidate.old, candidate.shapes)
    if wrong is not None:
        return wrong
    if candidate.big is not None:
        return _width(models, candidate, append, depth)
    leaves = (unchanged(candidate.old[name], tuple(s.shape), str(s.dtype)) for name, s in small)
    return PlanData(tuple(leaves), ())


def _width(
    models: _Models, candidate: DepthCandidate, append: Sequence[tuple[str, int]], depth: str
) -> PlanData | Conflict:
    """The plan between two programs of one structure: `candidate.small` and `candidate.big`."""
    assert candidate.big is not None
    small, big = models.leaves
    dtypes = {name: leaf.dtype for name, leaf in big}
    analysis = Analysis(RULES, UNKNOWN, models.folder)
    analysis.more_passes = depth in COPYING
    sizes = [(candidate.old[name], s.shape, s.dtype) for name, s in small]
    sizes += [(name, shape, dtypes[name]) for name, shape in candidate.eyes.items()]
    for i, (name, shape, dtype) in enumerate(sizes):
        analysis.params.append((name, Value(shape, candidate.shapes[name], dtype, origin=i)))
    values = [value for _, value in analysis.params]
    values += [Value(x.small, x.big, x.dtype) for x in models.inputs]
    if models.new is not None:
        analysis.inputs, analysis.new = models.inputs, models.new
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
    models: _Models, candidate: DepthCandidate, big: Program
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


def _sizes(leaves: Leaves) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves}
