"""All passes of planning: from two functions and the shapes of their parameters to `PlanData`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from trainkit._core.paths import same_structure
from trainkit.growth.depth.assembly import more_layers
from trainkit.growth.depth.candidate import DepthCandidate
from trainkit.growth.depth.flat_model import FlatModel
from trainkit.growth.depth.layer_cut import without_passes
from trainkit.growth.errors import Conflict, GrowthError
from trainkit.growth.ir.custom_gradients import unproved
from trainkit.growth.ir.products import in_one_order
from trainkit.growth.ir.program import Folder, Program
from trainkit.growth.ir.simplification.idle_equations import with_idle_equations
from trainkit.growth.ir.source_lines import uses
from trainkit.growth.ir.trace import named_shapes, shape_of, structs, traced_program
from trainkit.growth.mismatches import Leaves, check_leaves, same_results, structure
from trainkit.growth.operators import Operator, operator
from trainkit.growth.plan.data import PlanData, unchanged
from trainkit.growth.plan.experts import upcycled
from trainkit.growth.plan.groups import repeats
from trainkit.growth.plan.inputs import GrownInput, NewInputs, grown_inputs
from trainkit.growth.remedies import (
    with_copied_layers,
    with_larger_axis,
    with_layers_of_while_loops,
)
from trainkit.growth.rules.control import NO_PASSES, PASSES
from trainkit.growth.search import COPYING, Models, fused_axes, search, width

PyTree = Any
TRIED = 1000  # equations of a program for which another call is tried before it is advised


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
        return repeats(small_params, big_params, calibrated=True, fused=fused_axes(models))
    if depth == "experts":
        return upcycled(*leaves, trees, dict(operator(how).names))
    both = (small_fn, big_fn), (small_params, big_params)
    find = lambda models: search(models, depth, trainable, append)
    as_written = lambda: _traced(*both, leaves, args, flat, new, layered=False)
    models, result = _first_form(models, as_written, find)
    lines = dict(zip(models.big.shapes, uses(models.big.program), strict=False))
    if isinstance(result, Conflict):
        result = _with_more_passes(models, depth, result)
    if isinstance(result, Conflict):

        def wider(params: PyTree) -> PlanData | Conflict:
            changed = leaves[0], named_shapes(params, "big_params")
            fns, trees = (small_fn, big_fn), (small_params, params)
            return find(_traced(fns, trees, changed, args, flat, new))

        if len(models.big.program.equations) < TRIED and new is None:
            result = with_larger_axis(result, structs(big_params), wider)
        if depth == "identity" and result.kind == "layers":
            other = lambda how: search(models, how, trainable, append)
            result = with_copied_layers(result, other)
        raise with_layers_of_while_loops(result, models.big).error(lines)
    own = tuple(dataclasses.replace(leaf, lines=lines[leaf.path]) for leaf in result.leaves)
    own_trees = None if result.depth is None and same_structure(*trees) else trees
    return dataclasses.replace(result, leaves=own, trees=own_trees)


def _first_form(
    models: Models, as_written: Callable[[], Models], find: Callable[[Models], PlanData | Conflict]
) -> tuple[Models, PlanData | Conflict]:
    """The first of several forms of the models that has a plan, and the plan.

    Or else the models as they are, with the conflict that they have.
    """
    result = find(models)
    if not isinstance(result, Conflict):
        return models, result
    forms: list[Models] = []
    if models.folder.rewritten:
        # A table may have as many rows as a loop has passes in one of the models by accident.
        forms.append(as_written())
    if result.kind == "layers" and (ordered := _in_one_order(models)) is not None:
        # `jnp.einsum` of three arrays contracts in an order that may change with the width.
        forms.append(ordered)
    for form in forms:
        if not isinstance(again := find(form), Conflict):
            return form, again
    return models, result


def _in_one_order(models: Models) -> Models | None:
    """The models with products of three or more arrays in a fixed order; `None` without any."""
    sides = [
        side._replace(program=in_one_order(side.program, models.folder))
        for side in (models.small, models.big)
    ]
    raws = lambda *sides: {id(eqn.raw) for side in sides for eqn in side.program.equations}
    if raws(*sides) == raws(models.small, models.big):
        return None
    return models._replace(small=sides[0], big=sides[1])


def _with_more_passes(models: Models, depth: str, conflict: Conflict) -> PlanData | Conflict:
    """The plan of equal parameters that the big model uses more often, if it may; else why not."""
    small, big = models.leaves
    before, after = (Counter(_uses(side.program)) for side in (models.small, models.big))
    named = [[name for name, _ in side] for side in models.leaves]
    if conflict.kind == "layers" or more_layers(models.small, models.big):
        return conflict
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
        found = width(models, only, (), depth)
        return found if isinstance(found, Conflict) else dataclasses.replace(found, depth=depth)
    why = f"{conflict.why}\n  perhaps shared weights are used more often, {NO_PASSES}"
    return dataclasses.replace(conflict, why=why, hint=PASSES)


def _uses(program: Program) -> Iterator[str]:
    """The primitives of a program; a loop counts as often as it runs."""
    for eqn in program.equations:
        yield from [eqn.name] * (eqn.params["length"] if eqn.name == "scan" else 1)


def _traced(
    fns: tuple[Callable[..., PyTree], Callable[..., PyTree]],
    params: tuple[PyTree, PyTree],
    leaves: tuple[Leaves, Leaves],
    args: tuple[tuple[PyTree, ...], tuple[PyTree, ...]],
    inputs: list[GrownInput],
    new: NewInputs | None,
    layered: bool = True,
) -> Models:
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
    first = first._replace(program=_with_idle_equations(first, second))
    return Models(first, second, leaves, inputs, new, results, set(guessed), folder)


def _with_idle_equations(small: FlatModel, big: FlatModel) -> Program:
    """The small program with equations that do nothing there, and so only the big one has."""
    place = {name: j for j, name in enumerate(big.shapes)}
    n, m = len(small.shapes), len(big.shapes)
    extra = range(min(len(small.program.ins) - n, len(big.program.ins) - m))
    inputs = {i: place[name] for i, name in enumerate(small.shapes) if name in place}
    inputs |= {n + i: m + i for i in extra}
    return with_idle_equations(small.program, big.program, inputs)


def _arguments(inputs: tuple[PyTree, ...], new: NewInputs | None) -> tuple[PyTree, ...]:
    """The arguments of the big model."""
    if new is None or new.example is None:
        return inputs
    return tuple(new.example) if type(new.example) in (tuple, list) else (new.example,)


def _sizes(leaves: Leaves) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves}
