"""Named chains, and access to optimizer states by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.paths import path_name
from trainkit.transforms.rule import Rule
from trainkit.transforms.state.inject import InjectState, inject

PyTree = Any


def named(
    *pairs: tuple[str, optax.GradientTransformation] | Mapping[str, optax.GradientTransformation],
    **transforms: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """A chain of named transformations, in order. Its state is a dict with these names.

    Optax: `optax.named_chain`. Here, rules of this package also store their hyper-parameters in the
    state (see `inject`), for `get` and `set`.

    Args:
      *pairs: `("name", transformation)` pairs, or one mapping.
      **transforms: the same as keywords.

    Raises:
      ValueError: there is no transformation, or a name is empty or occurs twice.
      TypeError: a value is not a gradient transformation.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.named(clip=tt.clip_by_global_norm(1.0), adam=tt.adamw(1e-3))
    >>> state = tx.init({"w": jnp.ones(3)})
    >>> state = tt.set(state, "learning_rate", 3e-4)
    >>> print(tt.get(state, "adam.learning_rate"))
    0.0003
    >>> tt.get(state, "adam.mu")["w"].shape
    (3,)
    """
    parts: dict[str, optax.GradientTransformationExtraArgs] = {}
    given: list[tuple[str, Any]] = []
    for pair in pairs:
        given.extend(pair.items() if isinstance(pair, Mapping) else [pair])
    for pair in given:
        if isinstance(pair, optax.GradientTransformation):
            raise TypeError(
                "named: a transformation must have a name: named(adam=adam(1e-3)), or the pair "
                "('adam', adam(1e-3))."
            )
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise TypeError(f"named: each must be a pair (name, transformation), not {pair!r}.")
    given.extend(transforms.items())
    if not given:
        raise ValueError("named needs at least one transformation: named(adam=adamw(1e-3)).")
    for name, tx in given:
        if not isinstance(name, str) or not name:
            raise ValueError(f"named: a name must be a non-empty string, not {name!r}.")
        if name in parts:
            raise ValueError(f"named: the name {name!r} is given twice.")
        parts[name] = injected(tx, f"named: {name!r}")

    def init(params: PyTree) -> dict[str, PyTree]:
        return {name: tx.init(params) for name, tx in parts.items()}

    def update(
        updates: PyTree, state: dict[str, PyTree], params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, dict[str, PyTree]]:
        new_state = {}
        for name, tx in parts.items():
            updates, new_state[name] = tx.update(updates, state[name], params, **extra)
        return updates, new_state

    return optax.GradientTransformationExtraArgs(init, update)


def injected(
    tx: optax.GradientTransformation, name: str = "tx"
) -> optax.GradientTransformationExtraArgs:
    """The transformation with its hyper-parameters in its state, if it is a `Rule` with any."""
    validation.transformation(tx, name)
    if isinstance(tx, Rule) and tx.hyperparameters():
        return inject(tx)
    return optax.with_extra_args_support(tx)


def get(state: PyTree, name: str | tuple[str, ...] | None = None) -> Any:
    """The value of a name in a state: a hyper-parameter, a slot, or the state of a part.

    A name is the dotted path of a node. All but its last part may be left out: `"learning_rate"`,
    `"adam.learning_rate"`, `"adam.mu"`, `"adam.mu.dense.kernel"`. Use a tuple of strings if names
    contain dots. Without a name, the result is a dict of all hyper-parameters.

    Args:
      state: an optimizer state, or a `TrainState` that holds one; replicated, sharded, or stacked
        over devices as in `pmap` (hyper-parameters are then returned as scalars).

    Raises:
      KeyError: no node or several nodes have that name; the message lists names.
    """
    tree = _opt_state(state)
    if name is None:
        return {
            ".".join(path): _scalar(value)
            for path, value in _walk(tree)
            if len(path) > 1 and path[-2] == "hyperparams"
        }
    path, value = _find(tree, name)
    return _scalar(value) if len(path) > 1 and path[-2] == "hyperparams" else value


def set(state: PyTree, name: str | tuple[str, ...] | Mapping[Any, Any], value: Any = None) -> Any:
    """The state with a new value for `name`. A step does not compile again.

    The new value gets the dtype, shape and placement of the old one; a scalar is broadcast to every
    device or ensemble member. `set(state, {"learning_rate": 1e-4, "b1": .95})` sets several values.
    A scheduled hyper-parameter keeps the new value until it is set to `None`, which returns to the
    schedule.

    Raises:
      KeyError: as in `get`.
      ValueError: a negative or non-finite rate, a β outside [0, 1), or another tree or shape.
    """
    if isinstance(name, Mapping):
        for key, item in name.items():
            state = set(state, key, item)
        return state
    tree = _opt_state(state)
    path, old = _find(tree, name)
    if len(path) > 1 and path[-2] == "hyperparams":
        new = _set_hyperparameter(tree, path, old, value)
    else:
        _check_same(old, value, path)
        new = _replace(tree, path, jax.tree.map(_placed_like, value, old))
    if hasattr(state, "opt_state"):
        return state.replace(opt_state=new)
    return new


def _set_hyperparameter(tree: PyTree, path: tuple[str, ...], old: Any, value: Any) -> PyTree:
    scheduled = (*path[:-2], "scheduled", path[-1])
    followed = dict(_walk(tree)).get(scheduled)
    if value is None:
        if followed is None:
            raise ValueError(f"{'.'.join(path)} has no schedule to return to.")
        return _replace(tree, scheduled, _placed_like(True, followed))
    validation.hyperparameter(path[-1], value)
    if np.ndim(value) > np.ndim(old):
        raise ValueError(f"{'.'.join(path)} must be a number, not {value!r}.")
    known = path[-1] in validation.HYPERPARAMETERS
    if not known and jnp.issubdtype(jnp.asarray(old).dtype, jnp.integer):
        validation.integer(path[-1], value, least=0)
    tree = _replace(tree, path, _placed_like(value, old))
    if followed is not None:
        tree = _replace(tree, scheduled, _placed_like(False, followed))
    return tree


def _opt_state(state: PyTree) -> PyTree:
    return getattr(state, "opt_state", state)


def _children(node: Any) -> tuple[list[tuple[str, Any]], Any]:
    """The named children of a node, and the treedef to rebuild it."""
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return [(path_name(path), child) for path, child in children], treedef


def _is_leaf(node: Any) -> bool:
    return node is None or jax.tree_util.all_leaves([node])


def _walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path:
        yield path, node
    if not _is_leaf(node):
        for name, child in _children(node)[0]:
            yield from _walk(child, (*path, name))


def _find(tree: PyTree, name: str | tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    if not isinstance(name, tuple | list):
        validation.text("name", name, hint="such as 'learning_rate' or ('head', 'b1')")
    query = tuple(name.split(".")) if isinstance(name, str) else tuple(name)
    nodes = list(_walk(tree))
    found = [(path, node) for path, node in nodes if path[-1] == query[-1] and _within(query, path)]
    if len(found) > 1:
        # A bare name means a hyper-parameter before a parameter of that name, and a slot before a
        # parameter inside it.
        found = [f for f in found if f[0][-2:-1] == ("hyperparams",)] or found
        found = [f for f in found if f[0] == query] or found
        outer = [p for p, _ in found]
        found = [f for f in found if not any(p != f[0] and f[0][: len(p)] == p for p in outer)]
        found = [f for f in found if f[0][-2:-1] != ("scheduled",)] or found
    if len(found) == 1:
        return found[0]
    shown = query if isinstance(name, tuple) else name
    if found:
        raise KeyError(
            f"{shown!r} is the name of several parts of the state: "
            f"{', '.join('.'.join(p) for p, _ in found[:8])}. Use a longer name."
        )
    names = [".".join(p) for p, _ in nodes if p[-2:-1] == ("hyperparams",)] + list(
        dict.fromkeys(p[0] for p, _ in nodes)
    )
    short = [name.replace(".hyperparams.", ".") for name in names]
    hint = validation.near(shown, short) or (
        ". A hyper-parameter is in the state of tt.inject(tx), tt.named(…) and tt.groups(…)"
    )
    raise KeyError(
        f"the state has nothing named {shown!r}{hint.removesuffix('?')}; it has, among others, "
        f"{names[:16]}."
    )


def _within(query: tuple[str, ...], path: tuple[str, ...]) -> bool:
    rest = iter(path)
    return all(part in rest for part in query)


def _replace(node: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    children, treedef = _children(node)
    return treedef.unflatten(
        [_replace(c, path[1:], value) if name == path[0] else c for name, c in children]
    )


def _scalar(value: Any) -> Any:
    """The value of a hyper-parameter that pmap stacks over devices."""
    if isinstance(value, jax.core.Tracer) or not isinstance(value, jax.Array) or value.ndim != 1:
        return value
    if len(value.sharding.device_set) == value.shape[0] > 1 and not value.is_fully_replicated:
        return value.addressable_data(0).reshape(())
    return value


def _placed_like(value: Any, old: Any) -> Any:
    value = jnp.asarray(value)
    if jax.dtypes.issubdtype(old.dtype, jax.dtypes.extended):
        new = value
    else:
        new = jnp.broadcast_to(value.astype(old.dtype), old.shape)
    if isinstance(new, jax.core.Tracer) or isinstance(old, jax.core.Tracer):
        return new
    # Committing an uncommitted array would compile the step again.
    return jax.device_put(new, old.sharding) if old.committed else new


def _check_same(old: PyTree, value: PyTree, path: tuple[str, ...]) -> None:
    where = ".".join(path)
    here: Any = jax.tree.structure(old)
    there: Any = jax.tree.structure(value)
    if here != there:
        raise ValueError(f"{where} is a tree {here}, and cannot be set to {there}.")
    for (leaf, a), b in zip(
        jax.tree_util.tree_flatten_with_path(old)[0], jax.tree.leaves(value), strict=True
    ):
        if jnp.shape(b) not in (a.shape, (), a.shape[1:]):
            raise ValueError(
                f"{where}/{path_name(leaf)} has shape {a.shape} and cannot be set to "
                f"{jnp.shape(b)}."
            )


__all__ = ["InjectState", "get", "injected", "named", "set"]
