"""Stacked layers: rules that work leaf by leaf treat each layer of a stacked leaf separately.

`stacked` is {regular expression: number of leading layer axes}. The first expression that matches a
leaf's path counts; other leaves have no layer axes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.paths import compiled, path_name, some
from trainkit.transforms.masked_trees import left_out

PyTree = Any
Stacked = Mapping[str, int] | None
P = ParamSpec("P")


def layer_axes(stacked: Stacked, tree: PyTree, name: str) -> list[int]:
    """For each leaf the number of leading layer axes; 0 for a single layer.

    Raises:
      ValueError: an expression matches no leaf, or a leaf has fewer axes than it says. (Leaves of
        other groups, which are masked, count as matched.)
    """
    stacked = stacked or {}
    patterns = list(zip(compiled(stacked), stacked, stacked.values(), strict=True))
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=left_out)
    names = [path_name(path) for path, _ in leaves]
    for regex, pattern, _ in patterns:
        if names and not any(regex.search(n) for n in names):
            raise ValueError(
                f"{name}: stacked has {pattern!r}, which matches none of the parameters "
                f"{some(names)}."
            )
    found = []
    for leaf, (_, x) in zip(names, leaves, strict=True):
        count, pattern = next(((n, p) for r, p, n in patterns if r.search(leaf)), (0, ""))
        if left_out(x):
            continue
        if jnp.ndim(x) < count:
            raise ValueError(
                f"{name}: stacked={{{pattern!r}: {count}}} matches {leaf!r}, whose shape is "
                f"{jnp.shape(x)}: it has no {count} layer axes. Use an expression that does not "
                "match it, or put one with 0 before it."
            )
        found.append(count)
    return found


def per_tensor(factory: Callable[P, Any]) -> Callable[P, optax.GradientTransformation]:
    """Gives a factory of rules that work leaf by leaf its argument `stacked`.

    A factory of this package declares it, for `help` and for type checkers. It is taken out here.
    """
    signature = inspect.signature(factory)
    name = factory.__name__

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> optax.GradientTransformation:
        stacked: Any = kwargs.pop("stacked", None)
        for pattern, count in (stacked or {}).items():
            validation.integer(f"stacked[{pattern!r}]", count, name, least=0)
        tx = factory(*args, **kwargs)
        return one_by_one(tx, stacked, name) if stacked else tx

    if "stacked" not in signature.parameters:  # a rule of Optax
        own = inspect.Parameter("stacked", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = [*signature.parameters.values(), own]
        # For `inspect.signature`; type checkers do not know this attribute of functions.
        make.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return make


def one_by_one(
    tx: optax.GradientTransformation, stacked: Stacked, name: str
) -> optax.GradientTransformation:
    """`tx` applied to each layer of a stack, by `vmap` over the layer axes.

    The state has the same structure, with layer axes in the slots of stacked leaves. Counts and the
    slots of other leaves have none. `tx` must treat each leaf independently.
    """

    def init(params: PyTree) -> PyTree:
        axes = layer_axes(stacked, params, name)
        return _Layers(tx, params, axes).init(params, axes)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        axes = layer_axes(stacked, updates, name)
        return _Layers(tx, updates, axes).update(updates, state, params, axes)

    return optax.GradientTransformation(init, update)


class _Layers:
    """`tx` under one `vmap` for each layer axis, for trees of one structure."""

    def __init__(self, tx: optax.GradientTransformation, tree: PyTree, axes: Sequence[int]):
        leaves: list[Any]
        self.treedef: Any
        self.state: Any
        leaves, self.treedef = jax.tree.flatten(tree)
        self.tx = tx
        self.layer = [
            jax.ShapeDtypeStruct(jnp.shape(x)[n:], x.dtype)
            for x, n in zip(leaves, axes, strict=True)
        ]
        state, self.state = jax.tree_util.tree_flatten_with_path(self._state(self.layer))
        self.paths = [path for path, _ in state]

    def init(self, params: PyTree, axes: Sequence[int]) -> PyTree:
        leaves = self.treedef.flatten_up_to(params)
        at, rest = _outermost(leaves, axes)
        if not any(at):
            return self.tx.init(params)

        def layer(*leaves: Any) -> list[Any]:
            return self.state.flatten_up_to(self.init(self.treedef.unflatten(leaves), rest))

        out = jax.vmap(layer, in_axes=_axes(at), out_axes=list(_axes(self._owned(at))))(*leaves)
        return self.state.unflatten(out)

    def update(self, updates: PyTree, state: PyTree, params: PyTree, axes: Sequence[int]) -> Any:
        leaves = self.treedef.flatten_up_to(updates)
        at, rest = _outermost(leaves, axes)
        if not any(at):
            return self.tx.update(updates, state, params)
        held = _axes(self._owned(at))
        theirs = None if params is None else self.treedef.flatten_up_to(params)

        def layer(leaves: Any, state: Any, theirs: Any) -> Any:
            whole = None if theirs is None else self.treedef.unflatten(theirs)
            updates, held = self.treedef.unflatten(leaves), self.state.unflatten(state)
            out, new = self.update(updates, held, whole, rest)
            return self.treedef.flatten_up_to(out), self.state.flatten_up_to(new)

        own = list(_axes(at))
        out, new = jax.vmap(
            layer,
            in_axes=(own, list(held), None if theirs is None else own),
            out_axes=(own, list(held)),
        )(leaves, self.state.flatten_up_to(state), theirs)
        return self.treedef.unflatten(out), self.state.unflatten(new)

    def _owned(self, at: Sequence[bool]) -> list[bool]:
        """Which leaves of the state belong to these leaves."""
        others = [optax.MaskedNode() if a else x for a, x in zip(at, self.layer, strict=True)]
        left = jax.tree_util.tree_leaves_with_path(self._state(others))
        paths = {path for path, _ in left}
        return [path not in paths for path in self.paths]

    def _state(self, leaves: Sequence[Any]) -> PyTree:
        return jax.eval_shape(self.tx.init, self.treedef.unflatten(leaves))


def _outermost(leaves: Sequence[Any], axes: Sequence[int]) -> tuple[list[bool], list[int]]:
    """Stacks with the same first axis size as the first stack, and the remaining layer axes."""
    size = next((x.shape[0] for x, n in zip(leaves, axes, strict=True) if n), None)
    at = [n > 0 and x.shape[0] == size for x, n in zip(leaves, axes, strict=True)]
    return at, [n - a for n, a in zip(axes, at, strict=True)]


def _axes(mapped: Sequence[bool]) -> tuple[int | None, ...]:
    return tuple(0 if m else None for m in mapped)
