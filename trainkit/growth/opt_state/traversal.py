"""Traversal of nested optimizer states, slot by slot, together with the shapes of `tx.init`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import named_leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.opt_state.slots import Kind, Slots
from trainkit.growth.opt_state.table import fields_of

PyTree = Any
Visit = Callable[[Kind, str, PyTree, PyTree], PyTree]
Special = Callable[[Any, Any, str], Any]


def traverse(
    state: PyTree,
    template: PyTree,
    slots: Slots | None,
    visit: Visit,
    special: Special,
    specials: Collection[str],
    where: str = "",
    given: set[str] | None = None,
) -> PyTree:
    """Applies `visit` to every slot, in nested states too.

    Args:
      state, template: a state, and the shapes of the result.
      slots: the user's descriptions of state classes.
      visit: (kind, where, slot, shapes of the new slot) -> the new slot.
      special: (state, template, where) -> the new state, for classes in `specials`.
      specials: names of classes.
      where: the name of the state in messages.
      given: if not `None`, collects the names of states that `slots` describes.

    Raises:
      GrowthError: the structures differ, or a class is not in a table.
    """
    inner = lambda s, t, at: traverse(s, t, slots, visit, special, specials, at, given)
    if not jax.tree.leaves(state):
        return state if not jax.tree.leaves(template) else _differs(state, template, where)
    if type(state) in (tuple, list):
        if type(template) is not type(state) or len(state) != len(template):
            return _differs(state, template, where)
        pairs = zip(state, template, strict=True)
        return type(state)(inner(s, t, f"{where}[{i}]") for i, (s, t) in enumerate(pairs))
    if isinstance(state, dict):
        if not isinstance(template, dict) or set(state) != set(template):
            return _differs(state, template, where)
        return type(state)(
            (key, inner(s, template[key], f"{where}[{key!r}]")) for key, s in state.items()
        )
    if type(state) is not type(template):
        return _differs(state, template, where)
    here = f"{where}.{type(state).__name__}" if where else type(state).__name__
    described = slots is not None and type(state) in slots
    if type(state).__name__ in specials and not described:
        return special(state, template, here)
    if given is not None and described:
        given.add(here)
    changes = {}
    for field, kind in fields_of(state, slots, where).items():
        if not hasattr(state, field):
            continue  # a field that this release of the class does not have
        value, target = getattr(state, field), getattr(template, field)
        at = f"{here}.{field}"
        if kind == "keep":
            changes[field] = value
        elif kind == "state":
            changes[field] = inner(value, target, at)
        elif kind == "measured":
            changes[field] = _measured(value, target)
        else:
            changes[field] = visit(kind, at, value, target)
    if hasattr(state, "_replace"):
        return state._replace(**changes)
    return dataclasses.replace(state, **changes)


def record(
    state: PyTree, template: PyTree, slots: Slots | None, specials: Collection[str]
) -> dict[str, Any]:
    """Every slot with a degree in the table: where -> (kind, leaf name -> value)."""
    seen: dict[str, Any] = {}
    given: set[str] = set()

    def visit(kind: Kind, where: str, tree: PyTree, target: PyTree) -> PyTree:
        # Descriptions by the user are not measured.
        if not isinstance(kind, str) and where.rpartition(".")[0] not in given:
            seen[where] = (kind, named_leaves(tree))
        return tree

    traverse(state, template, slots, visit, lambda state, *_: state, specials, given=given)
    return seen


def _measured(value: PyTree, target: PyTree) -> PyTree:
    if str(jax.tree.structure(value)) != str(jax.tree.structure(target)):
        return value
    return jax.tree.map(
        lambda x, spec: x if jnp.shape(x) == spec.shape else jnp.zeros(spec.shape, spec.dtype),
        value,
        target,
    )


def _differs(state: PyTree, template: PyTree, where: str) -> PyTree:
    raise GrowthError(
        f"the optimizer state at {where or 'its top'} is {_kinds(state)}, but tx.init returns "
        f"{_kinds(template)}. Check that tx is the transformation of this state."
    )


def _kinds(state: PyTree) -> str:
    """The classes of a state's parts, as it was written; else its structure."""
    if type(state) is tuple:
        return f"({', '.join(map(_kinds, state))})"
    name = type(state).__name__
    return f"a {name} with {jax.tree.structure(state)}" if isinstance(state, dict | list) else name
