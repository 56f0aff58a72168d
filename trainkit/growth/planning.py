"""All passes of planning: from two functions and the shapes of their parameters to `PlanData`."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.solve import solve_width
from trainkit.growth.analysis.values import Value
from trainkit.growth.depth.assembly import DepthCandidate, assemble, depth_candidates
from trainkit.growth.depth.flat_model import FlatModel, Shapes
from trainkit.growth.errors import Conflict, GrowthError
from trainkit.growth.ir.custom_gradients import unproved
from trainkit.growth.ir.program import Folder, Program
from trainkit.growth.ir.source_lines import uses
from trainkit.growth.ir.trace import named_shapes, shape_of, structs, traced_program
from trainkit.growth.operators import Operator, operator
from trainkit.growth.plan.data import PlanData, unchanged
from trainkit.growth.plan.experts import upcycled
from trainkit.growth.plan.groups import repeats
from trainkit.growth.remedies import with_copied_layers, with_larger_axis
from trainkit.growth.rules import RULES, UNKNOWN

PyTree = Any
Leaves = list[tuple[str, jax.ShapeDtypeStruct]]
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
) -> PlanData:
    """The data of `trainkit.growth.plan`; arguments and errors are documented there."""
    leaves = named_shapes(small_params, "small_params"), named_shapes(big_params, "big_params")
    trees: Any = jax.tree.structure(small_params), jax.tree.structure(big_params)
    if [name for name, _ in leaves[0]] == [name for name, _ in leaves[1]]:
        same = {name: name for name, _ in leaves[0]}
        wrong = _mismatch(leaves[0], dict(leaves[1]), same, _sizes(leaves[1]))
        if wrong is not None:
            raise wrong.error()
    models = _traced((small_fn, big_fn), (small_params, big_params), leaves, inputs)
    depth = operator(how).depth
    if depth == "groups":
        return repeats(small_params, big_params, calibrated=True)
    if depth == "experts":
        return upcycled(*leaves, trees, dict(operator(how).names))
    result = _search(models, depth, trainable, append)
    lines = dict(zip(models.big.shapes, uses(models.big.program), strict=False))
    if isinstance(result, Conflict):

        def wider(params: PyTree) -> PlanData | Conflict:
            changed = leaves[0], named_shapes(params, "big_params")
            fns, trees = (small_fn, big_fn), (small_params, params)
            return _search(_traced(fns, trees, changed, inputs), depth, trainable, append)

        if len(models.big.program.equations) < TRIED:
            result = with_larger_axis(result, structs(big_params), wider)
        if depth == "identity" and result.kind == "layers":
            other = lambda how: _search(models, how, trainable, append)
            result = with_copied_layers(result, other)
        raise result.error(lines)
    own = tuple(dataclasses.replace(leaf, lines=lines[leaf.path]) for leaf in result.leaves)
    kept = None if result.depth is None else trees
    return dataclasses.replace(result, leaves=own, trees=kept)


class _Models(NamedTuple):
    """The two models as programs.

    Attributes:
      small, big: their flat programs, with the shapes of their parameters.
      leaves: paths, shapes and dtypes of their parameters.
      inputs: the arguments of both after the parameters.
      results: names of the results, for messages.
      guessed: numbers of the small model's parameters whose gradients are not derivatives.
      folder: flattens jaxprs, and shares constants between the programs.
    """

    small: FlatModel
    big: FlatModel
    leaves: tuple[Leaves, Leaves]
    inputs: list[jax.ShapeDtypeStruct]
    results: list[str]
    guessed: set[int]
    folder: Folder


def _traced(
    fns: tuple[Callable[..., PyTree], Callable[..., PyTree]],
    params: tuple[PyTree, PyTree],
    leaves: tuple[Leaves, Leaves],
    inputs: tuple[PyTree, ...],
) -> _Models:
    """Traces both functions.

    Raises:
      GrowthError: one cannot be traced, or they return different structures.
    """
    args = jax.tree.map(shape_of, inputs)
    small, small_out = traced_program(fns[0], structs(params[0]), args, "small")
    big, big_out = traced_program(fns[1], structs(params[1]), args, "big")
    if str(jax.tree.structure(small_out)) != str(jax.tree.structure(big_out)):
        raise GrowthError(
            f"the two functions return different structures: {_structure(small_out)} in the small "
            f"and {_structure(big_out)} in the big model",
            hint=_same_results(small_out, big_out),
        )
    guessed = unproved(small, fns[0], structs(params[0]), args)
    results = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(small_out)]
    folder = Folder()
    first, second = (
        FlatModel(folder.flatten(program), _sizes(own))
        for program, own in zip((small, big), leaves, strict=True)
    )
    return _Models(first, second, leaves, jax.tree.leaves(args), results, set(guessed), folder)


def _structure(results: PyTree) -> str:
    """The structure of results, with * for each array."""
    return str(jax.tree.structure(results)).removeprefix("PyTreeDef(").removesuffix(")")


def _same_results(small: PyTree, big: PyTree) -> str:
    """The call that returns the same results from both, if one returns a part of the other."""
    for name, part, whole in (("big_fn", small, big), ("small_fn", big, small)):
        if not isinstance(whole, dict | list | tuple):
            continue
        for key in whole if isinstance(whole, dict) else range(len(whole)):
            if _structure(whole[key]) == _structure(part):
                return f"pass lambda params, *x: {name}(params, *x)[{key!r}] in place of {name}"
    return "return the same results from both"


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
        widths = _widths(models, candidate, append)
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
    return _width(
        models, DepthCandidate({}, same, big.shapes, small.program, big.program, {}), append
    )


def _widths(
    models: _Models, candidate: DepthCandidate, append: Sequence[tuple[str, int]]
) -> PlanData | Conflict:
    """The plan of the small model's leaves, for one alignment of layers."""
    small, big = models.leaves
    wrong = _mismatch(small, dict(big), candidate.old, candidate.shapes)
    if wrong is not None:
        return wrong
    if candidate.big is not None:
        return _width(models, candidate, append)
    leaves = (unchanged(candidate.old[name], tuple(s.shape), str(s.dtype)) for name, s in small)
    return PlanData(tuple(leaves), ())


def _width(
    models: _Models, candidate: DepthCandidate, append: Sequence[tuple[str, int]]
) -> PlanData | Conflict:
    """The plan between two programs of one structure: `candidate.small` and `candidate.big`."""
    assert candidate.big is not None
    small, big = models.leaves
    dtypes = {name: leaf.dtype for name, leaf in big}
    analysis = Analysis(RULES, UNKNOWN, models.folder)
    sizes = [(candidate.old[name], s.shape, s.dtype) for name, s in small]
    sizes += [(name, shape, dtypes[name]) for name, shape in candidate.eyes.items()]
    for i, (name, shape, dtype) in enumerate(sizes):
        analysis.params.append((name, Value(shape, candidate.shapes[name], dtype, origin=i)))
    values = [value for _, value in analysis.params]
    values += [Value(x.shape, x.shape, x.dtype) for x in models.inputs]
    programs = _in_one_order(models, candidate, candidate.big)
    result = solve_width(analysis, programs, values, models.results, append)
    if isinstance(result, Conflict):
        return result
    guessed = {candidate.old[small[i][0]] for i in models.guessed}
    leaves = [
        dataclasses.replace(leaf, calibrated=True) if leaf.path in guessed else leaf
        for leaf in result.leaves
    ]
    return dataclasses.replace(result, leaves=tuple(leaves))


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


def _mismatch(
    small: Leaves,
    big: Mapping[str, jax.ShapeDtypeStruct],
    old: Mapping[str, str],
    shapes: Shapes,
) -> Conflict | None:
    """The conflict of leaves whose shapes or dtypes do not fit, or `None`."""
    for name, s in small:
        path = old[name]
        if s.dtype != big[path].dtype:
            return Conflict(
                f"{path} is {s.dtype} in the small and {big[path].dtype} in the big model",
                "programs",
                params=(path,),
                hint="cast one of them first",
            )
        if len(s.shape) != len(shapes[path]):
            return Conflict(
                f"{path} has shape {s.shape} in the small and {shapes[path]} in the big model",
                "programs",
                params=(path,),
            )
        for d, (n, m) in enumerate(zip(s.shape, shapes[path], strict=True)):
            if n == 0 != m:
                return Conflict(
                    f"axis {d} of {path} has no units to copy: shapes {s.shape} → {shapes[path]}",
                    "axes",
                    axis=f"{n} → {m}",
                    params=(path,),
                    hint="start from a model with at least one",
                )
            if m < n:
                return Conflict(
                    f"axis {d} of {path} would shrink from {n} to {m}: shapes "
                    f"{s.shape} → {shapes[path]}",
                    "axes",
                    axis=f"{n} → {m}",
                    params=(path,),
                    hint=_kept(n, small, old, shapes),
                )
    return None


def _kept(n: int, small: Leaves, old: Mapping[str, str], shapes: Shapes) -> str:
    """What to do about an axis of n units that would shrink."""
    pairs = ((name, zip(leaf.shape, shapes[old[name]], strict=False)) for name, leaf in small)
    grown = [f"{name} {a} → {b}" for name, sizes in pairs for a, b in sizes if a < b]
    if not grown:
        return "growth only enlarges: swap the two models, or prune the big one with plan.shrink"
    return (
        f"keep this axis at {n} while others grow ({grown[0]}): for more heads of one size, the "
        "width of all heads together grows as their number does"
    )
