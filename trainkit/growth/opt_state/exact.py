"""Exact continuation: a transformation under which the grown model follows the small one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import named_leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.opt_state.follower import Follower
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.trees import small_tree
from trainkit.growth.plan.validation import check_tx

PyTree = Any
Anneal = int | Callable[[Any], Any]


class ExactState(NamedTuple):
    """The state of an annealed exact continuation: steps since growth, and the state of `tx`."""

    step: jax.Array
    inner: PyTree


def exact(
    tx: optax.GradientTransformation,
    growth: MapData,
    params: PyTree | None = None,
    *,
    anneal: Anneal | None = None,
    slots: Slots | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A transformation under which the grown model follows the small one, step for step.

    Each update folds gradients, parameters and state to the small size, applies `tx`, and expands
    the result (`opt_state.follower`). For element-wise rules this equals the known factors (SGD:
    lr·c/f; AdamW: lr·c, ε·f, wd/c; Lion: lr·c, wd/c; Muon: lr·√(k_out/k_in)). `tx` may be any
    transformation: global-norm clipping, trust ratios, matrix norms of Adafactor and Muon, and
    uneven copies are exact too.

    While it is exact, the grown model can only represent what the small one can: copies stay
    copies, and padding units and new layers do not change. `anneal` moves to plain training: update
    = (1 − s)·exact + s·plain, with s from 0 to 1. From the first step with s > 0, the state of `tx`
    is updated by the plain gradients.

    Args:
      tx: the plain transformation.
      growth: the map of the growth.
      params: the small parameters, or their shapes (`jax.ShapeDtypeStruct`). Not needed if the
        growth adds no layers, or was made from a plan.
      anneal: `None`: exact for all steps; the state is that of `tx`, as `grow_opt_state` returns
        it. A number of steps: s rises linearly to 1 at that step. A schedule: steps since growth ->
        s. With `anneal` the state is an `ExactState`; a state of `tx` is accepted too, as step 0.
      slots: as in `grow_opt_state`.

    Returns:
      A gradient transformation for the grown parameters. Its `update` needs `params`.

    Raises:
      GrowthError: `growth` changes the function. At the first update: the state does not contain
        the small model's state (an Adafactor leaf that is factored only after growth).
      ValueError: `anneal` is neither a number of steps nor a function.

    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
    >>> halves = AxisMap(np.array([0, 0]), np.full(2, .5), np.ones(2))
    >>> growth = MapData({"w": LeafMap((halves,))})
    >>> tx = exact(optax.sgd(1.0), growth, {"w": jnp.zeros(1)})
    >>> big = {"w": jnp.array([1.5, 1.5])}           # its sum is the small w = 3
    >>> updates, _ = tx.update({"w": jnp.array([1., 1.])}, tx.init(big), big)
    >>> updates["w"].tolist()                         # the sum changes by lr · g = 1
    [-0.5, -0.5]
    """
    check_tx(tx)
    if anneal is not None and not callable(anneal) and not (_is_number(anneal) and anneal >= 0):
        raise ValueError(
            f"anneal={anneal!r} must be a number of steps, a schedule from 0 to 1, or None"
        )
    if growth.how in ("rms", "perturb"):
        raise GrowthError(
            f"how={growth.how!r} changes the function, so there is no small model to follow",
            hint="use 'uneven', 'even', 'noise' or 'zero_out', or continue with the plain rule",
        )
    if params is None and growth.origin:
        params = _small_shapes(growth)
    inner = _protocol(tx)
    follower = Follower(tx, inner, growth, params, slots)

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any):
        if params is None:
            raise ValueError(
                "exact continuation needs the parameters: update(grads, state, params)"
            )
        _check_grown("gradient", grads, growth)
        _check_grown("parameter", getattr(params, "fast", params), growth)
        if anneal is None:
            return follower.update(grads, state, params, extra)
        return _annealed(follower, anneal, grads, state, params, extra)

    def init(params: PyTree) -> PyTree:
        state = inner.init(params)
        return state if anneal is None else ExactState(jnp.zeros((), jnp.int32), state)

    return optax.GradientTransformationExtraArgs(init, update)


def _annealed(
    follower: Follower,
    anneal: Anneal,
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    extra: dict[str, Any],
) -> tuple[PyTree, ExactState]:
    """(1 − s) · exact + s · plain. If s is 0 or 1, only one of the two is computed."""
    if not isinstance(state, ExactState):
        state = ExactState(jnp.zeros((), jnp.int32), state)
    if callable(anneal):
        s = jnp.asarray(anneal(state.step), jnp.float32)
    else:
        s = jnp.clip(state.step.astype(jnp.float32) / max(anneal, 1), 0.0, 1.0)

    def followed() -> tuple[PyTree, PyTree]:
        return follower.update(grads, state.inner, params, extra)

    def plain() -> tuple[PyTree, PyTree]:
        return follower.inner.update(grads, state.inner, params, **extra)

    def mixed() -> tuple[PyTree, PyTree]:
        (a, _), (b, after) = followed(), plain()
        mix = lambda x, y: x + s.astype(x.dtype) * (y - x)
        return jax.tree.map(mix, a, b), after

    updates, after = jax.lax.cond(s <= 0, followed, lambda: jax.lax.cond(s >= 1, plain, mixed))
    return updates, ExactState(optax.safe_increment(state.step), after)


def _small_shapes(growth: MapData) -> PyTree:
    if growth.plan is None:
        raise ValueError("growth adds layers: pass params=, the small parameters or their shapes")
    old = growth.plan.old.items()
    shapes = {name: jax.ShapeDtypeStruct(leaf.small, leaf.dtype) for name, leaf in old}
    return small_tree(growth.plan, shapes)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.number) and not isinstance(x, bool)


def _check_grown(what: str, tree: PyTree, growth: MapData) -> None:
    found, leaves = named_leaves(tree), growth.leaves
    missing = [name for name in leaves if name not in found]  # frozen, perhaps
    unknown = [name for name in found if name not in leaves]
    if missing and unknown:
        raise GrowthError(
            f"the {what} {missing[0]} is missing, and {unknown[0]} is not part of the growth",
            params=[*missing[:3], *unknown[:3]],
            hint="pass gradients and parameters of the plan's big model",
        )
    for name in (name for name in leaves if name in found):
        shape, axes = tuple(found[name].shape), leaves[name].axes
        sizes = [None if a is None else len(a.source) for a in axes]
        pairs = zip(shape, sizes, strict=False)
        if len(shape) != len(sizes) or any(m not in (None, n) for n, m in pairs):
            raise GrowthError(
                f"the {what} {name} has shape {shape}; after growth it has "
                f"({', '.join('·' if n is None else str(n) for n in sizes)})",
                params=[name],
                hint="pass gradients, state and parameters of the grown model",
            )


def _protocol(tx: Any) -> optax.GradientTransformationExtraArgs:
    if hasattr(tx, "gradient_transformation"):  # optax.MultiSteps
        tx = tx.gradient_transformation()
    return optax.with_extra_args_support(tx)
