"""Exact continuation: the transformation under which the grown model follows the small one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.algebra import expand, fold, pull_back
from trainkit.growth.opt_state.grow import (
    Growth,
    Origin,
    degrees_of,
    fold_opt_state,
    grow_opt_state,
)
from trainkit.growth.opt_state.slots import Slot, Slots
from trainkit.growth.plan.validation import check_tx

PyTree = Any
Anneal = int | Callable[[Any], Any]


class ExactState(NamedTuple):
    """The state of an annealed exact continuation: steps since growth, and the state of `tx`."""

    step: jax.Array
    inner: PyTree


def exact(
    tx: optax.GradientTransformation,
    growth: Growth,
    params: PyTree | None = None,
    *,
    anneal: Anneal | None = None,
    origin: Mapping[str, Origin] | None = None,
    slots: Slots | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`tx` with per-leaf factors under which the grown model follows the small one step for step.

    Growth is an affine map W′ = C W + constant that keeps the loss, so g = Cᵀ g′ is the small
    model's own gradient, and W′ ← W′ + C u continues it, whatever the rule that makes u from g.
    Each update therefore folds gradients, parameters and state to the small size, asks `tx`, and
    grows the answer. For element-wise rules this comes to the known factors (SGD: lr·c/f; AdamW:
    lr·c, ε·f, wd/c; Lion: lr·c, wd/c; Muon: lr·√(k_out/k_in)). Nothing is assumed of `tx`:
    global-norm clipping, trust ratios, Adafactor's and Muon's matrix norms and uneven copies are
    exact too.

    As long as it is exact, the grown model has the small one's freedom and no more: copies stay
    copies and new (∅) units rest. `anneal` lets go: update = (1 − s)·exact + s·plain, with s from
    0 to 1. The state is then `tx`'s own, moved by the plain gradients from the first step with
    s > 0, so at s = 1 nothing is left to catch up.

    Args:
      tx: the plain transformation.
      growth: leaf name -> `LeafGrowth`.
      params: the small parameters, or their shapes (`jax.ShapeDtypeStruct`); may be left out where
        growth adds no layers.
      anneal: `None`: exact for ever, and the state is `tx`'s own, as `grow_opt_state` made it. A
        number of steps: s rises linearly from the first step to that one. Or a schedule: step
        since growth -> s. The state is then `ExactState`; a plain one is taken too, as step 0.
      origin: as in `grow_opt_state`. New layers rest while the continuation is exact.
      slots: as in `grow_opt_state`.

    Raises:
      GrowthError: at the first update, where a state does not hold what the small one held (an
        Adafactor leaf that is factored after growth only).

    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth
    >>> halves = AxisGrowth(np.array([0, 0]), np.full(2, .5), np.ones(2))
    >>> tx = exact(optax.sgd(1.0), {"w": LeafGrowth((halves,))}, {"w": jnp.zeros(1)})
    >>> big = {"w": jnp.array([1.5, 1.5])}           # read as a sum: w = 3
    >>> updates, _ = tx.update({"w": jnp.array([1., 1.])}, tx.init(big), big)
    >>> updates["w"].tolist()                         # their sum moves by lr · g = 1
    [-0.5, -0.5]
    """
    check_tx(tx)
    if anneal is not None and not callable(anneal) and not (_is_number(anneal) and anneal >= 0):
        raise ValueError(
            f"anneal={anneal!r} must be a number of steps, a schedule from 0 to 1, or None"
        )
    inner = _protocol(tx)
    origin = origin or {}
    if params is None and origin:
        raise ValueError("growth adds layers, so the tree of the small parameters must be given")
    given = params
    degrees: list[Mapping[str, Slot]] = []  # found once, when the small shapes are known

    def old_leaf(name: str) -> str | None:
        come = origin.get(name, Origin(name))
        return None if come.new else come.leaf

    def to_small(tree: PyTree, how: Callable[[jax.Array, str], jax.Array]) -> PyTree:
        """A tree of the small model, from one of the grown model's."""
        values = {}
        for name, leaf in named_leaves(tree).items():
            old = old_leaf(name)
            if old is not None:
                values[old] = how(leaf, name) if name in growth else leaf
        like = tree if given is None else given
        return jax.tree_util.tree_map_with_path(lambda path, _: values[path_name(path)], like)

    def old_shape(leaf: jax.Array, name: str) -> tuple[int, ...]:
        sizes = zip(leaf.shape, growth[name].axes, strict=True)
        return tuple(n if a is None else int(max(a.source)) + 1 for n, a in sizes)

    def small_gradients(grads: PyTree) -> PyTree:
        return to_small(grads, lambda g, name: pull_back(g, growth[name], old_shape(g, name)))

    def small_params(big: PyTree) -> PyTree:
        def one(w: jax.Array, name: str) -> jax.Array:
            how = growth[name]
            shift = jnp.asarray(how.shift, w.dtype)
            return fold(w + shift, how, old_shape(w, name), weight=1) - shift

        return to_small(big, one)

    def to_big(tree: PyTree, like: PyTree) -> PyTree:
        """The linear part of growth, applied to an update."""
        values = named_leaves(tree)

        def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            name = path_name(path)
            old = old_leaf(name)
            if old is None:
                return jnp.zeros_like(leaf)
            if name not in growth:
                return values[old]
            return expand(values[old], growth[name], weight=1, new="fill", what=name)

        return jax.tree_util.tree_map_with_path(one, like)

    def follow(grads: PyTree, state: PyTree, big: PyTree, extra: dict[str, Any]):
        small = small_params(big)
        if not degrees:
            degrees.append(degrees_of(tx, small, slots))
        how: dict[str, Any] = {"origin": origin, "slots": slots, "degrees": degrees[0]}
        folded = fold_opt_state(tx, state, growth, small, big, **how)
        lift = lambda p: optax.apply_updates(big, to_big(jax.tree.map(jnp.subtract, p, small), big))
        for name in ("grad", "value_fn", "grad_fn"):
            if extra.get(name) is not None:
                extra = {**extra, name: _small_argument(name, extra[name], lift, small_gradients)}
        updates, folded = inner.update(small_gradients(grads), folded, small, **extra)
        grown = grow_opt_state(tx, folded, growth, small, big, **how)
        return to_big(updates, grads), grown

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any):
        if params is None:
            raise ValueError(
                "exact continuation needs the parameters: update(grads, state, params)"
            )
        _check_grown("gradient", grads, growth)
        _check_grown("parameter", getattr(params, "fast", params), growth)
        if anneal is None:
            return follow(grads, state, params, extra)
        if not isinstance(state, ExactState):
            state = ExactState(jnp.zeros((), jnp.int32), state)
        if callable(anneal):
            s = jnp.asarray(anneal(state.step), jnp.float32)
        else:
            s = jnp.clip(state.step.astype(jnp.float32) / max(anneal, 1), 0.0, 1.0)
        followed, plain = (
            lambda: follow(grads, state.inner, params, extra),
            lambda: inner.update(grads, state.inner, params, **extra),
        )

        def mixed():
            (a, _), (b, after) = followed(), plain()
            mix = lambda x, y: x + s.astype(x.dtype) * (y - x)
            return jax.tree.map(mix, a, b), after

        updates, after = jax.lax.cond(s <= 0, followed, lambda: jax.lax.cond(s >= 1, plain, mixed))
        return updates, ExactState(optax.safe_increment(state.step), after)

    def init(params: PyTree) -> PyTree:
        state = inner.init(params)
        return state if anneal is None else ExactState(jnp.zeros((), jnp.int32), state)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.number) and not isinstance(x, bool)


def _check_grown(what: str, tree: PyTree, growth: Growth) -> None:
    found = named_leaves(tree)
    missing = [name for name in growth if name not in found]  # frozen, perhaps
    unknown = [name for name in found if name not in growth]
    if missing and unknown:
        raise GrowthError(
            f"the {what} {missing[0]} is missing, and there is a {unknown[0]} that has not grown",
            params=[*missing[:3], *unknown[:3]],
            hint="pass gradients and parameters of the model that the plan was made for",
        )
    for name in (name for name in growth if name in found):
        shape, axes = tuple(found[name].shape), growth[name].axes
        sizes = [None if a is None else len(a.source) for a in axes]
        pairs = zip(shape, sizes, strict=False)
        if len(shape) != len(sizes) or any(m not in (None, n) for n, m in pairs):
            raise GrowthError(
                f"the {what} {name} is {shape}; after growth it is "
                f"({', '.join('·' if n is None else str(n) for n in sizes)})",
                params=[name],
                hint="pass gradients, state and parameters of the grown model",
            )


def _protocol(tx: Any) -> optax.GradientTransformationExtraArgs:
    if hasattr(tx, "gradient_transformation"):  # optax.MultiSteps
        tx = tx.gradient_transformation()
    return optax.with_extra_args_support(tx)


def _small_argument(name: str, value: Any, lift: Callable, pull: Callable) -> Any:
    """For line searches and SAM: the loss at the grown parameters that small ones stand for."""
    if name == "grad":
        return pull(value)
    if name == "value_fn":
        return lambda p, *args, **kwargs: value(lift(p), *args, **kwargs)
    return lambda p, *args, **kwargs: pull(value(lift(p), *args, **kwargs))
