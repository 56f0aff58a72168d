"""Leaves and results of the two models that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from trainkit.growth.depth.flat_model import Shapes
from trainkit.growth.errors import Conflict, GrowthError
from trainkit.growth.plan.forms import in_other_boxes

PyTree = Any
Leaves = Sequence[tuple[str, jax.ShapeDtypeStruct]]


def check_leaves(small: Leaves, big: Leaves) -> None:
    """Raises a `GrowthError` if leaves of the same names do not fit, or are in other boxes."""
    names = [name for name, _ in small], [name for name, _ in big]
    if names[0] == names[1]:
        same = {name: name for name in names[0]}
        wrong = mismatch(small, dict(big), same, {name: tuple(x.shape) for name, x in big})
        if wrong is not None:
            raise wrong.error()
    elif in_other_boxes(*names):
        raise GrowthError(
            "the arrays of small_params and big_params are in different boxes",
            hint="pass flax.linen.unbox(…) (Linen) or flax.nnx.to_pure_dict(…) (NNX) of both",
        )


def mismatch(
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


def structure(results: PyTree) -> str:
    """The structure of results, with * for each array."""
    return str(jax.tree.structure(results)).removeprefix("PyTreeDef(").removesuffix(")")


def same_results(small: PyTree, big: PyTree) -> str:
    """The call that returns the same results from both, if one returns a part of the other."""
    for name, part, whole in (("big_fn", small, big), ("small_fn", big, small)):
        if not isinstance(whole, dict | list | tuple):
            continue
        for key in whole if isinstance(whole, dict) else range(len(whole)):
            if structure(whole[key]) == structure(part):
                return f"pass lambda params, *x: {name}(params, *x)[{key!r}] in place of {name}"
    return "return the same results from both"
