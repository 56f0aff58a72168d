"""Mixtures of experts: from a dense layer, and from E experts to m·E.

The programs of the two models differ in more than sizes (a router appears; the number of experts
that are chosen grows), so that no lockstep analysis can prove these two. They are exact under the
conditions named below; `Certificate.forward_error`, or comparing outputs, shows whether they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trainkit.growth.blueprint import Plan
from trainkit.growth.errors import GrowthError
from trainkit.growth.paths import named_leaves, path_name
from trainkit.growth.repeating import repeats

PyTree = Any


def more_experts(small_params: PyTree, big_params: PyTree, *, last: str | None = None) -> Plan:
    """The plan by which E experts become m·E, each m times side by side.

    Exact where the big model chooses m·k experts for k, and gates are a softmax over all experts or
    over the chosen ones: the copies of an expert tie, are chosen together, and share its gate. Each
    copy's gradient is 1/m of the old one's, so that optimizer state and exact continuation follow
    as for any plan.

    Args:
      small_params, big_params: arrays or shapes; where they differ, they differ in the axis of the
        experts alone, which is E in one and m·E in the other.
      last: a regular expression for the parameters by which an expert ends (its output matrix and
        bias). Copies of these may differ in what `symmetry` gives them without changing the
        function; without it copies stay equal, and no training separates them.

    Returns:
      A `Plan`; `grow`, `grow_opt_state` and `exact` work as for any other.

    Raises:
      GrowthError: other leaves, an axis that is no multiple, or two different ratios.

    >>> import jax.numpy as jnp
    >>> small = {"router": jnp.array([[1.0, 2.0]]), "down": jnp.ones((2, 3, 1))}
    >>> big = {"router": jnp.zeros((1, 4)), "down": jnp.zeros((4, 3, 1))}
    >>> more_experts(small, big).grow(small, symmetry="even")["router"]
    Array([[1., 1., 2., 2.]], dtype=float32)
    """
    return repeats(small_params, big_params, last=last)


def from_dense(dense: PyTree, mixture: PyTree, *, names: Mapping[str, str] | None = None) -> PyTree:
    """The parameters of a mixture whose experts are all the dense layer.

    Exact where the gates of the chosen experts sum to 1: then Σₑ gateₑ · f(x) = f(x), whatever the
    router says. The experts separate as the router sends them different tokens. The first moments
    of an expert are about k/E of the dense layer's and depend on the router: start them anew.
    (Komatsuzaki et al. 2023, Sparse Upcycling.)

    Args:
      dense: the dense model's parameters.
      mixture: the mixture's initial parameters (arrays). A leaf of shape (E, …) takes the dense
        leaf of shape (…) E times; one of the dense leaf's own shape takes it once; one that the
        dense model lacks (the router) stays as it is.
      names: path in the mixture -> path in the dense model, where they differ.

    Raises:
      GrowthError: a shape that fits neither way, or a dense leaf that goes nowhere.

    >>> import jax.numpy as jnp
    >>> dense = {"w": jnp.ones((2, 3))}
    >>> mixture = {"router": jnp.zeros((2, 4)), "w": jnp.zeros((4, 2, 3))}
    >>> from_dense(dense, mixture)["w"].shape
    (4, 2, 3)
    """
    old = named_leaves(dense)
    names = dict(names or {})
    used = set()

    def one(path, new):
        name = path_name(path)
        source = names.get(name, name)
        if source not in old:
            if name in names:
                raise GrowthError(f"the dense model has no leaf {source}", params=[name])
            return new
        used.add(source)
        w = old[source]
        if jnp.shape(new) == jnp.shape(w):
            return w.astype(new.dtype)
        if jnp.shape(new)[1:] == jnp.shape(w):
            return jnp.broadcast_to(w.astype(new.dtype), jnp.shape(new))
        raise GrowthError(
            f"{name} has shape {jnp.shape(new)}, which is neither that of the dense leaf {source}, "
            f"{jnp.shape(w)}, nor a stack of it",
            params=[name],
            mend="the axis of the experts comes first",
        )

    result = jax.tree_util.tree_map_with_path(one, mixture)
    if len(used) != len(old):
        lost = [name for name in old if name not in used]
        raise GrowthError(
            f"the mixture has no place for {', '.join(lost[:4])}",
            params=lost,
            mend="say where they go: names={path in the mixture: path in the dense model}",
        )
    return result
