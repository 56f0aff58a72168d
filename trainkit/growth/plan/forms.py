"""Forms of trees: how libraries hold the same leaves, and what converts one form into another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import named_leaves

PyTree = Any
_BOXES = ("/value", "/raw_value")  # Flax keeps an array with its names in a box


def unboxed(name: str) -> str:
    """The name of a leaf without the box around it.

    >>> unboxed("Dense_0/kernel/value"), unboxed("value")
    ('Dense_0/kernel', 'value')
    """
    for box in _BOXES:
        name = name.removesuffix(box)
    return name


def in_other_boxes(a: Collection[str], b: Collection[str]) -> bool:
    """Whether names of leaves differ in boxes alone.

    >>> in_other_boxes(["w", "b"], ["w/value", "b"]), in_other_boxes(["w", "b"], ["b", "w"])
    (True, False)
    """
    return set(a) != set(b) and set(map(unboxed, a)) == set(map(unboxed, b))


def in_form_of(tree: PyTree, like: PyTree) -> PyTree:
    """The leaves of a tree in the containers of another one, matched by name and shape.

    Checkpoints hold lists as dicts with the keys "0", "1", …, and named tuples as dicts; NNX puts
    arrays into boxes. A tree with other leaves is returned as it is.

    >>> in_form_of({"0": {"b": 1, "a": 2}}, [{"a": 0, "b": 0}])
    [{'a': 2, 'b': 1}]
    """
    structures: Any = jax.tree.structure(tree), jax.tree.structure(like)
    if structures[0] == structures[1]:
        return tree
    wanted, found = named_leaves(like), named_leaves(tree)
    if found.keys() != wanted.keys():
        found = {unboxed(name): leaf for name, leaf in found.items()}
    fits = found.keys() == wanted.keys() and all(
        jnp.shape(found[name]) == jnp.shape(leaf) for name, leaf in wanted.items()
    )
    if not fits:
        return tree
    return jax.tree.unflatten(structures[1], [found[name] for name in wanted])


def converting(found: Collection[str], wanted: Collection[str], what: str) -> str | None:
    """The call that gives a tree the leaves that are wanted, if it differs in its form alone.

    Args:
      found, wanted: names of leaves.
      what: the name of the tree in the call.
    """
    tops = {name.partition("/")[0] for name in found}
    below = {name.partition("/")[2] for name in found if name.startswith("params/")}
    bare = {unboxed(name) for name in wanted}
    if "params" in tops and below and (below == set(wanted) or {*map(unboxed, below)} == bare):
        return f"pass {what}['params']" if "opt_state" not in tops else f"pass {what}.params"
    if found and all(name.startswith("('") for name in found):
        return f"pass flax.traverse_util.unflatten_dict({what})"
    if {unboxed(name) for name in found} == bare:
        boxed = any(unboxed(name) != name for name in found)
        if boxed:
            unbox = f"flax.linen.unbox({what}) (Linen) or flax.nnx.to_pure_dict({what}) (NNX)"
            return f"arrays are in boxes: pass {unbox}"
        return (
            "the other tree has its arrays in boxes: make the plan from flax.linen.unbox(…) "
            "(Linen) or flax.nnx.to_pure_dict(…) (NNX) of the parameters of both models"
        )
    return None
