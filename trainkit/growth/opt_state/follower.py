"""One update of the grown model that equals the small model's: fold, apply the rule, expand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.maps.algebra import expand, fold, pull_back
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.opt_state.grow import degrees_of, fold_opt_state, grow_opt_state
from trainkit.growth.opt_state.slots import Slot, Slots

PyTree = Any


class Follower:
    """The small model inside the grown one.

    Growth is an affine map W′ = C W + constant that keeps the loss. So g = Cᵀ g′ is the gradient of
    the small model, and W′ ← W′ + C u continues its training, for every rule that computes u from
    g.
    """

    def __init__(
        self,
        tx: optax.GradientTransformation,
        inner: optax.GradientTransformationExtraArgs,
        growth: MapData,
        params: PyTree | None,
        slots: Slots | None,
    ):
        self.tx, self.inner, self.growth, self.slots = tx, inner, growth, slots
        self._like = params
        self._degrees: Mapping[str, Slot] | None = None  # once the small shapes are known

    def update(
        self, grads: PyTree, state: PyTree, big: PyTree, extra: dict[str, Any]
    ) -> tuple[PyTree, PyTree]:
        """Updates and state of the grown model, from its gradients, state and parameters.

        Args:
          grads, state, big: gradients, optimizer state and parameters of the grown model.
          extra: further arguments of the transformation's `update`.
        """
        small = self.small_params(big)
        if self._degrees is None:
            self._degrees = degrees_of(self.tx, small, self.slots)
        options: dict[str, Any] = {"slots": self.slots, "degrees": self._degrees}
        folded = fold_opt_state(self.tx, state, self.growth, small, big, **options)
        arguments = {
            name: self._small_argument(name, value, small, big)
            if name in ("grad", "value_fn", "grad_fn") and value is not None
            else value
            for name, value in extra.items()
        }
        updates, folded = self.inner.update(self.small_gradients(grads), folded, small, **arguments)
        grown = grow_opt_state(self.tx, folded, self.growth, small, big, **options)
        return self.big_updates(updates, grads), grown

    def small_gradients(self, grads: PyTree) -> PyTree:
        """Cᵀ g′, the gradients of the small model."""
        leaves = self.growth.leaves
        return self._small(grads, lambda g, name: pull_back(g, leaves[name], self._size(g, name)))

    def small_params(self, big: PyTree) -> PyTree:
        """The small parameters, from the grown ones."""

        def one(w: jax.Array, name: str) -> jax.Array:
            how = self.growth.leaves[name]
            shift = jnp.asarray(how.shift, w.dtype)
            return fold(w + shift, how, self._size(w, name), weight=1) - shift

        return self._small(big, one)

    def big_updates(self, updates: PyTree, like: PyTree) -> PyTree:
        """C u, the linear part of growth; 0 for leaves of new layers."""
        values = named_leaves(updates)

        def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            name = path_name(path)
            origin, how = self.growth.origin_of(name), self.growth.leaves.get(name)
            if origin.new or origin.leaf is None:
                return jnp.zeros_like(leaf)
            old = values[origin.leaf]
            return old if how is None else expand(old, how, weight=1, new="fill", what=name)

        return jax.tree_util.tree_map_with_path(one, like)

    def _small(self, tree: PyTree, how: Callable[[jax.Array, str], jax.Array]) -> PyTree:
        """A tree of the small model, from one of the grown model's."""
        values = {}
        for name, leaf in named_leaves(tree).items():
            origin = self.growth.origin_of(name)
            if not origin.new and origin.leaf is not None:
                values[origin.leaf] = how(leaf, name) if name in self.growth.leaves else leaf
        like = tree if self._like is None else self._like
        return jax.tree_util.tree_map_with_path(lambda path, _: values[path_name(path)], like)

    def _size(self, leaf: jax.Array, name: str) -> tuple[int, ...]:
        """The shape in the small model."""
        sizes = zip(leaf.shape, self.growth.leaves[name].axes, strict=True)
        return tuple(n if a is None else int(max(a.source)) + 1 for n, a in sizes)

    def _small_argument(self, name: str, value: Any, small: PyTree, big: PyTree) -> Any:
        """An extra argument for the small model: gradients, or a loss of small parameters."""
        if name == "grad":
            return self.small_gradients(value)

        def lift(params: PyTree) -> PyTree:
            apart = jax.tree.map(jnp.subtract, params, small)
            return optax.apply_updates(big, self.big_updates(apart, big))

        if name == "value_fn":
            return lambda p, *args, **kwargs: value(lift(p), *args, **kwargs)
        return lambda p, *args, **kwargs: self.small_gradients(value(lift(p), *args, **kwargs))
