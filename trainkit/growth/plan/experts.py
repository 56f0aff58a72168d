"""A dense layer becomes the experts of a mixture: the plan, found by names and shapes.

The programs of the two models differ in more than sizes (a router appears), so that no analysis of
the two together can prove this growth. It is exact where the gates of the chosen experts sum to 1,
for then Σₑ gateₑ · f(x) = f(x), whatever the router says. (Komatsuzaki et al. 2023, Sparse
Upcycling.)

To the rest of growth a dense leaf of shape (…) is one expert, of shape (1, …): it is *lifted*
(`growth.maps.expert_axis`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import AxisPlan, GrownAxis, Layer, LeafPlan, PlanData, unchanged

_HINT = (
    'name them: how=trainkit.growth.Operator(depth="experts", names=((path in the mixture, path in '
    "the dense model), …)); the axis of the experts comes first in every stacked leaf"
)


def upcycled(
    dense: list[tuple[str, Any]],
    mixture: list[tuple[str, Any]],
    trees: tuple[Any, Any],
    names: Mapping[str, str] = {},
) -> PlanData:
    """The plan by which every expert of a mixture is the dense layer.

    Args:
      dense, mixture: (path, shape) of the two models' leaves.
      trees: the structures of the two trees.
      names: path in the mixture -> path in the dense model. What is not named is found: the leaf of
        the same path, or else the one leaf that fits by shape and shares most of its path.

    Raises:
      GrowthError: nothing is stacked, a leaf fits several or none, or stacks differ in size.
    """
    sources = _sources(dict(dense), dict(mixture), names)
    old, leaves, counts = dict(dense), [], set()
    for path, new in mixture:
        source = sources.get(path)
        shape, dtype = tuple(new.shape), str(new.dtype)
        if source is None:
            leaves.append(_with_layer(unchanged(path, shape, dtype), None, "random"))
            continue
        if str(old[source].dtype) != dtype:
            raise GrowthError(
                f"{path} is {dtype} in the mixture and {old[source].dtype} in the dense model",
                params=[path, source],
                hint="cast one of them first",
            )
        if shape == tuple(old[source].shape):
            leaves.append(_with_layer(unchanged(path, shape, dtype), source, "copy"))
            continue
        counts.add(shape[0])
        leaves.append(
            LeafPlan(
                path=path,
                small=(1, *shape[1:]),
                big=shape,
                dtype=dtype,
                axes=(AxisPlan(("leaf", 0), splits=((),)), *[None] * (len(shape) - 1)),
                calibrated=True,
                layer=Layer(source),
            )
        )
    if len(counts) != 1:
        raise GrowthError(
            "a dense layer becomes the experts of one mixture, and "
            + (f"stacks of {sorted(counts)} were found" if counts else "no leaf is stacked"),
            params=[path for path, _ in mixture if path not in old],
            hint=_HINT,
        )
    (count,) = counts
    return PlanData(
        leaves=tuple(leaves),
        grown_axes=(GrownAxis(1, count, "repeat", clean=False),),
        depth="experts",
        trees=trees,
    )


def _with_layer(leaf: LeafPlan, source: str | None, becomes: Any) -> LeafPlan:
    return dataclasses.replace(leaf, layer=Layer(source, source is None, becomes))


def _fits(small: Any, big: Any) -> bool:
    return tuple(small.shape) in (tuple(big.shape), tuple(big.shape[1:]))


def _sources(
    dense: Mapping[str, Any], mixture: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, str]:
    """Path in the mixture -> path in the dense model, one for each dense leaf."""
    for path, source in names.items():
        if path not in mixture or source not in dense:
            where, lacks = ("mixture", path) if path not in mixture else ("dense model", source)
            raise GrowthError(f"the {where} has no leaf {lacks}", params=[path, source])
    found = dict(names)
    found |= {p: p for p, new in mixture.items() if p not in found and p in dense
              and p not in names.values() and _fits(dense[p], new)}  # fmt: skip
    for source, old in dense.items():
        if source in found.values():
            continue
        if source in mixture and source not in found:
            raise _no_stack(source, source, old, mixture[source])
        words = set(source.split("/"))
        score = {
            path: len(words & set(path.split("/")))
            for path, new in mixture.items()
            if path not in found and _fits(old, new)
        }
        best = [path for path, n in score.items() if n == max(score.values())]
        if len(best) != 1:
            raise GrowthError(
                f"the mixture has no place for {source} {tuple(old.shape)}"
                if not best
                else f"{source} {tuple(old.shape)} may become any of {', '.join(best)}",
                params=[source, *best],
                hint=_HINT,
            )
        found[best[0]] = source
    for path, source in found.items():
        if not _fits(dense[source], mixture[path]):
            raise _no_stack(path, source, dense[source], mixture[path])
    return found


def _no_stack(path: str, source: str, old: Any, new: Any) -> GrowthError:
    return GrowthError(
        f"{path} has shape {tuple(new.shape)}, which is neither that of the dense leaf {source}, "
        f"{tuple(old.shape)}, nor a stack of it",
        params=[path, source],
        hint="the axis of the experts comes first",
    )
