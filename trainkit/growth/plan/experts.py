"""Mixtures of experts: from a dense layer, and from E experts to m·E.

Most models need nothing from here: `trainkit.growth.plan` and `grow` take E to m·E by themselves
where the model chooses by `top_k`, k experts of E and m·k of m·E, and `how="experts"` makes a
mixture of a dense layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from trainkit._core.paths import named_leaves
from trainkit.growth.operators import Operator
from trainkit.growth.plan.data import Plan
from trainkit.growth.plan.groups import repeats
from trainkit.growth.plan.upcycling import upcycled

PyTree = Any


def more_experts(small_params: PyTree, big_params: PyTree, *, last: str | None = None) -> Plan:
    """The plan by which E experts become m·E, each m times side by side, without looking at the
    model: for those that `plan` refuses (dispatch by sorting, kernels without a rule).

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


def of_dense(names: Mapping[str, str]) -> Operator:
    """`how="experts"` for `plan` and `grow`, with the leaves whose names do not tell.

    Every expert becomes the dense layer: exact where the gates of the chosen experts sum to 1. The
    experts part as the router sends them different tokens. Their gradients sum to the dense
    layer's, each is taken for an E-th of it, and moments follow; the router is new (μ = 0, ν the
    mean of all). (Komatsuzaki et al. 2023, Sparse Upcycling.)

    Args:
      names: path in the mixture -> path in the dense model. What is not named is the leaf of the
        same path, or else the one leaf that fits by shape and shares most of its path.

    >>> of_dense({"params/experts/up": "params/mlp/wi"}).depth
    'experts'
    """
    return Operator(depth="experts", names=tuple(sorted(names.items())))


def from_dense(dense: PyTree, mixture: PyTree, *, names: Mapping[str, str] | None = None) -> PyTree:
    """The parameters of a mixture whose experts are all the dense layer; see `of_dense`.

    Args:
      dense: the dense model's parameters.
      mixture: the mixture's initial parameters (arrays). A leaf of shape (E, …) takes the dense
        leaf of shape (…) E times; one of the dense leaf's own shape takes it once; one that the
        dense model lacks (the router) stays as it is.
      names: as in `of_dense`.

    Raises:
      GrowthError: a shape that fits neither way, or a dense leaf that goes nowhere.

    >>> import jax.numpy as jnp
    >>> dense = {"w": jnp.ones((2, 3))}
    >>> mixture = {"router": jnp.zeros((2, 4)), "w": jnp.zeros((4, 2, 3))}
    >>> from_dense(dense, mixture)["w"].shape
    (4, 2, 3)
    """
    trees = jax.tree.structure(dense), jax.tree.structure(mixture)
    old, new = named_leaves(dense), named_leaves(mixture)
    plan = upcycled(list(old.items()), list(new.items()), trees, names or {})
    return plan.grow(dense, symmetry="even", like=mixture)
