"""Plans from a dense layer to the experts of a mixture, found by names and shapes.

The programs of the two models differ in more than sizes, because only one has a router. So this
growth cannot be proved by pairing equations. It is exact if the gates of the chosen experts sum to
1, because then Σₑ gateₑ · f(x) = f(x) for every router. (Komatsuzaki et al., Sparse Upcycling,
2023.)

For the rest of growth, a dense leaf of shape (…) is one expert of shape (1, …); see
`growth.maps.expert_axis`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import AxisPlan, GrownAxis, Layer, LeafPlan, PlanData, unchanged

_HINT = (
    'name them: how=trainkit.growth.Operator(depth="experts", names=((path in the mixture, path in '
    "the dense model), …)); the axis of the experts must be the first of every stacked leaf"
)


def upcycled(
    dense: list[tuple[str, Any]],
    mixture: list[tuple[str, Any]],
    trees: tuple[Any, Any],
    names: Mapping[str, str] = {},
) -> PlanData:
    """The plan that copies a dense layer into every expert of a mixture.

    Args:
      dense, mixture: (path, shape) of the two models' leaves.
      trees: the structures of the two trees.
      names: path in the mixture -> path in the dense model. Other leaves are matched by equal
        paths, or else by shape and by the largest common part of the path.

    Raises:
      GrowthError: no leaf is stacked, a leaf fits several others or none, or stacks differ in size.
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
            "a dense layer becomes the experts of exactly one mixture, and "
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
                f"no leaf of the mixture fits the dense leaf {source} {tuple(old.shape)}"
                if not best
                else f"several leaves fit the dense leaf {source} {tuple(old.shape)}: "
                f"{', '.join(best)}",
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
        hint="make the axis of the experts the first one",
    )
