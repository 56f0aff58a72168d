"""Checks of arguments, made before anything is traced, compiled or allocated."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from trainkit._core import validation
from trainkit._core.paths import compiled, named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import PlanData
from trainkit.growth.plan.forms import converting
from trainkit.growth.plan.inputs import NewInputs

PyTree = Any
Shape = tuple[int, ...]


def check_tx(tx: Any) -> None:
    """Raises a `GrowthError` if `tx` is not a gradient transformation."""
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise GrowthError(
            f"tx is a {type(tx).__name__}, not a gradient transformation with init and update",
            hint="pass the transformation of the state, for example optax.adamw(1e-3)",
        )


def check_append(append: Any) -> None:
    """Refuses a value that is not a list of pairs (regular expression, axis)."""
    validation.listed("append", append, "[('embedding', 0)]")
    for pair in append:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise TypeError(f"append must be pairs (regular expression, axis), not {pair!r}")
        validation.integer("append: the axis", pair[1], least=None)
    try:
        compiled(pattern for pattern, _ in append)
    except ValueError as error:
        raise ValueError(f"append: {error}") from None


def check_inputs(inputs: Any) -> None:
    """Refuses a value that says nothing of new inputs."""
    if not (inputs is None or isinstance(inputs, NewInputs)):
        raise TypeError(
            f"inputs is a {type(inputs).__name__}; give what the big model is called with as "
            "growth.NewInputs(example)"
        )


def check_arrays(tree: PyTree, what: str) -> None:
    """Raises a `GrowthError` if a leaf is not an array (a `ShapeDtypeStruct` is not one)."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.ShapeDtypeStruct) or not hasattr(leaf, "shape"):
            name = path_name(path)
            raise GrowthError(
                f"{what}: {name} is a {type(leaf).__name__}, not an array",
                params=[name],
                hint="pass arrays (for shapes alone, use jax.eval_shape of this call)",
            )


def check_params(plan: PlanData, params: PyTree) -> None:
    """Raises a `GrowthError` if leaves, shapes or dtypes are not those of the plan."""
    found = named_leaves(params)
    planned = plan.old
    missing = [p for p in planned if p not in found]
    unknown = [p for p in found if p not in planned]
    if missing or unknown:
        raise GrowthError(
            f"the parameters are not those of the plan: missing {missing[:5] or 'none'}, not in "
            f"the plan {unknown[:5] or 'none'}",
            params=[*missing[:3], *unknown[:3]],
            hint=converting(found, planned, "params")
            or "pass the tree that the plan was made from (its small_params)",
        )
    for path, leaf in found.items():
        wanted = planned[path]
        if not hasattr(leaf, "shape"):
            raise GrowthError(
                f"{path} is a {type(leaf).__name__}; the plan was made for an array of shape "
                f"{wanted.small} and dtype {wanted.dtype}",
                params=[path],
                hint="pass arrays",
            )
        shapes = [wanted.small, wanted.small[1:]] if plan.depth == "experts" else [wanted.small]
        if tuple(leaf.shape) not in shapes or str(leaf.dtype) != wanted.dtype:
            raise GrowthError(
                f"{path} has shape {tuple(leaf.shape)} and dtype {leaf.dtype}; the plan was made "
                f"for {wanted.small} and {wanted.dtype}",
                params=[path],
                hint="make a plan for these parameters",
            )


def check_shapes(tree: PyTree, shapes: Mapping[str, Shape], what: str, hint: str) -> None:
    """Raises a `GrowthError` if leaf names and shapes of a tree are not `shapes`."""
    found = {name: tuple(getattr(x, "shape", ())) for name, x in named_leaves(tree).items()}
    for name in [*shapes, *found]:
        if found.get(name) != shapes.get(name):
            raise GrowthError(
                f"{what}: {name} has shape {found.get(name, 'none (missing)')}, expected "
                f"{shapes.get(name, 'no such leaf')}",
                params=[name],
                hint=hint,
            )


def patterns_of(
    reset: bool | str | Sequence[str], leaves: Collection[str]
) -> list[re.Pattern[str]]:
    """The regular expressions for names of leaves whose moments are reset.

    Raises:
      ValueError: a text is not a regular expression, or matches no leaf.
    """
    if not isinstance(reset, bool | str):
        validation.listed("reset", reset, "['head']", "grow")
    texts = [reset] if isinstance(reset, str) else [] if isinstance(reset, bool) else list(reset)
    found = []
    for text in texts:
        try:
            found.append(re.compile(text))
        except (re.error, TypeError) as error:
            raise ValueError(f"reset={text!r} is not a regular expression: {error}") from error
        if not any(found[-1].search(leaf) for leaf in leaves):
            some = ", ".join(list(leaves)[:6])
            raise ValueError(f"reset={text!r} matches no leaf of the parameters: {some}")
    return found
