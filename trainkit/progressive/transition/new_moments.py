"""The moments of new layers: how fast they decay under a rule, and a state in which they are 0.

The decays β₁ and β₂ are measured by running the transformation on tiny leaves, because a rule does
not say them. A leaf whose updates do not follow `correction` has no entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import named_leaves
from trainkit.growth.opt_state.degrees import tiny
from trainkit.growth.opt_state.slots import Kind, Slot, as_slot
from trainkit.growth.opt_state.states.by_class import SPECIAL
from trainkit.growth.opt_state.traversal import Visit, traverse
from trainkit.progressive.stages.bias_correction import Decays, correction

PyTree = Any

_OLD = 100  # steps before the leaf came; Nesterov's last step is 1 + 10⁻⁵ of a steady one then
_YOUNG = 5  # steps for which the formula is compared
_TOLERANCE = 0.01  # of the factor: ε and float32 are far below, the first factors are .3 and 1.9


def decays_of(tx: optax.GradientTransformation, params: PyTree) -> dict[str, Decays]:
    """Name of a leaf -> its decays, where `correction` is what a new leaf needs.

    Args:
      tx: the transformation.
      params: arrays or shapes; only names, ranks and dtypes matter.

    >>> found = decays_of(optax.adam(1e-3), {"w": jnp.zeros((4, 4))})
    >>> round(found["w"].first, 4), round(found["w"].second, 4), found["w"].ahead
    (0.9, 0.999, 0.0)
    >>> decays_of(optax.sgd(1e-3, momentum=.9), {"w": jnp.zeros((4, 4))})
    {}
    """
    zeros = jax.tree.map(tiny, params)
    ones = jax.tree.map(np.ones_like, zeros)
    update = jax.jit(lambda g, s: tx.update(g, s, zeros))

    def next_updates(state: PyTree) -> list[dict[str, np.ndarray]]:
        found = []
        for _ in range(_YOUNG):
            change, state = update(ones, state)
            found.append(
                {name: np.mean(u, dtype=float) for name, u in named_leaves(change).items()}
            )
        return found

    try:
        with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
            old = tx.init(zeros)
            if not any(2.0 in moments for moments in _moments(old).values()):
                return {}
            for _ in range(_OLD):
                _, old = update(ones, old)
            _, faded = update(zeros, old)
            decays = _decays(_moments(old), _moments(faded))
            right = next_updates(old)
            wrong = next_updates(begun_anew(old, decays.__contains__))
    except Exception:
        # The rule needs a loss value, larger leaves, …
        return {}
    found, ages = {}, np.arange(1.0, _YOUNG + 1)
    for name, measured in decays.items():
        r, w = (np.array([updates[name] for updates in side]) for side in (right, wrong))
        for formula in (measured, measured._replace(ahead=1.0)):
            if r.all() and np.allclose(
                w * correction(formula, _OLD + ages, ages), r, rtol=_TOLERANCE, atol=0
            ):
                found[name] = formula
                break
    return found


def begun_anew(state: PyTree, chosen: Callable[[str], bool]) -> PyTree:
    """The state with moments of 0 for the leaves whose names are chosen."""

    def visit(kind: Kind, where: str, tree: PyTree, target: PyTree) -> PyTree:
        if not _degree(kind):
            return tree
        names = iter(named_leaves(tree))
        return jax.tree.map(lambda x: jnp.zeros_like(x) if chosen(next(names)) else x, tree)

    return _visited(state, visit)


def _moments(state: PyTree) -> dict[str, dict[float, list[float]]]:
    """Name of a leaf -> degree of a moment -> its means, one for each slot of this degree."""
    found: dict[str, dict[float, list[float]]] = {}

    def visit(kind: Kind, where: str, tree: PyTree, target: PyTree) -> PyTree:
        if degree := _degree(kind):
            for name, x in named_leaves(tree).items():
                found.setdefault(name, {}).setdefault(degree, []).append(float(jnp.mean(x)))
        return tree

    _visited(state, visit)
    return found


def _visited(state: PyTree, visit: Visit) -> PyTree:
    return traverse(state, state, None, visit, lambda state, *_: state, SPECIAL)


def _degree(kind: Kind) -> float:
    """1 or 2 for a slot that holds such a moment of the gradients, entry by entry; otherwise 0."""
    slot = Slot() if isinstance(kind, str) else as_slot(kind)
    return slot.gradient if slot.gradient in (1.0, 2.0) and not slot.per_leaf else 0.0


def _decays(
    before: dict[str, dict[float, list[float]]], after: dict[str, dict[float, list[float]]]
) -> dict[str, Decays]:
    """The decays of leaves with one ν and at most one μ, from a step whose gradients were 0."""
    found = {}
    for name, moments in before.items():
        if 2.0 in moments and all(len(each) == 1 for each in moments.values()):
            ratio = {d: after[name][d][0] / m[0] for d, m in moments.items() if m[0]}
            decays = Decays(ratio.get(1.0, 0.0), ratio.get(2.0, 0.0))
            if 0 <= decays.first < 1 and 0 < decays.second < 1:
                found[name] = decays
    return found
