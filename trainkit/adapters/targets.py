"""The labels and the weights of a batch: what is said, or the one thing that they can be.

What the module is called with is neither. Of what is left, names decide (`LABELS`, `WEIGHTS`); in a
tuple, element 1 is the labels, and a later element of real numbers or bools, one for each example
or label, the weights. What could be two things is refused, with the option that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trainkit._core import validation
from trainkit.adapters.batches import Key, described, elements, has_names, key_in

PyTree = Any
LABELS = ("y", "labels", "label", "targets", "target")
WEIGHTS = ("weight", "weights", "mask")
# The options `labels` and `weights`: a key, several keys, or a function of the batch.
Part = Key | Sequence[Key] | Callable[[PyTree], PyTree] | None


class Targets(NamedTuple):
    """What a loss is told of a batch beside the outputs.

    Attributes:
      labels: the labels; `None` if there are none.
      weights: name -> array [B] or [B, ...]; their product weighs the loss.
      name: of the labels in the batch.
      decided: whether integer labels of outputs [..., K] are classes for certain: the loss is given
        the labels, or the user says where they are. A loss that is given the batch may read them
        as something else.
    """

    labels: PyTree = None
    weights: Mapping[str, Any] = {}
    name: str = "labels"
    decided: bool = True


def check_part(option: str, part: Any) -> None:
    """Raises TypeError unless a value is a key, several keys or a function of the batch."""
    if part is None or callable(part) or isinstance(part, str | int):
        return
    validation.listed(option, part, "('weight', 'mask')")
    for key in part:
        if not isinstance(key, str | int):
            raise TypeError(f"{option} must be keys of the batch or positions, not {key!r}.")


def targets_of(
    batch: PyTree,
    outputs: PyTree,
    claimed: Collection[Key] = (),
    *,
    labels: Part = None,
    weights: Part = None,
    takes_labels: bool = True,
) -> Targets:
    """The labels and the weights of a batch.

    Args:
      batch: a tree of arrays or shapes.
      outputs: the outputs of the module, arrays or shapes.
      claimed: the keys of the batch that the module is called with.
      labels, weights: as in `trainkit.from_linen`.
      takes_labels: whether the loss is given the labels, not the batch.

    Raises:
      ValueError: there are none where the loss needs them, or two things could be meant.
    """
    said = {*_keys(batch, labels, "labels"), *_keys(batch, weights, "weights"), *claimed}
    free = {
        key: part
        for key, part in elements(batch).items()
        if key not in said and jax.tree.leaves(part)
    }
    own: dict[Key, Any] = _said(batch, labels, "labels")
    if labels is None:
        key = _guessed(free, batch, outputs, takes_labels)
        own = {} if key is None else {key: free.pop(key)}
    values = list(own.values())
    found = values[0] if len(values) == 1 else tuple(values) or None
    if found is None and takes_labels and not callable(labels):
        raise ValueError(_no_labels(batch, claimed))
    name = "/".join(map(str, own)) or "labels"
    weighing = _said(batch, weights, "weights")
    if weights is None:
        weighing = _weights(free, batch, found, takes_labels)
    named = {str(key): part for key, part in weighing.items() if part is not None}
    return Targets(found, named, name, takes_labels or labels is not None)


def is_classes(outputs: Any, labels: Any) -> bool:
    """Whether labels are integers [...] for outputs [..., K], K > 1."""
    if not (hasattr(outputs, "ndim") and hasattr(labels, "dtype")) or not outputs.ndim:
        return False
    return (
        jnp.issubdtype(labels.dtype, jnp.integer)
        and outputs.shape[:-1] == labels.shape
        and outputs.shape[-1] > 1
    )


def _keys(batch: PyTree, part: Part, option: str) -> list[Key]:
    """The keys that an option names."""
    if part is None or callable(part):
        return []
    keys = [part] if isinstance(part, str | int) else part
    return [key_in(batch, key, option) for key in keys]


def _said(batch: PyTree, part: Part, option: str) -> dict[Key, Any]:
    """What an option names, by key; under the option's name what its function returns."""
    if callable(part):
        return {option: part(batch)}
    found = elements(batch)
    return {key: found[key] for key in _keys(batch, part, option)}


def _guessed(
    free: Mapping[Key, Any], batch: PyTree, outputs: PyTree, takes_labels: bool
) -> Key | None:
    """The key of the labels among what is free; for a loss of the whole batch, of classes only."""
    names = has_names(batch)
    keys = [key for key in free if not names or key in LABELS]
    if not takes_labels:
        keys = [key for key in keys if is_classes(outputs, free[key])]
    elif not names and 1 in keys:
        keys = [1]
    if len(keys) > 1:
        shown = " or ".join(map(_shown, keys))
        raise ValueError(
            f"the labels of the batch could be {shown}; say which: labels={keys[-1]!r} (or "
            "name what the module is called with in inputs=)."
        )
    return keys[0] if keys else None


def _weights(
    free: Mapping[Key, Any], batch: PyTree, labels: Any, takes_labels: bool
) -> dict[Key, Any]:
    """The weights among what is free beside the labels."""
    if has_names(batch):
        return {key: free[key] for key in WEIGHTS if key in free}
    rest = {key: part for key, part in free.items() if int(key) >= 2}
    if not rest:
        return {}
    (key, part), *more = rest.items()
    if takes_labels and not more and _may_weigh(part, batch, labels):
        return rest
    raise ValueError(
        f"{_shown(key)} of the batch, which is {described(batch)}, is no input of the module and "
        f"may be the weights, or not: say weights={key!r}, or weights=() for none (the labels are "
        "what labels= names)."
    )


def _may_weigh(part: Any, batch: PyTree, labels: Any) -> bool:
    """Whether an array has a real number or a bool for each example, or for each label."""
    dtype = getattr(part, "dtype", None)
    if dtype is None or not (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.bool_)
    ):
        return False
    examples = jax.tree.leaves(batch)[0].shape[:1]
    return part.shape in (examples, getattr(labels, "shape", examples))


def _no_labels(batch: PyTree, claimed: Collection[Key]) -> str:
    inputs = [key for key in elements(batch) if key in claimed]
    beside = f" beside the inputs {', '.join(map(repr, inputs))}" if inputs else ""
    return (
        f"cannot find the labels in the batch, which is {described(batch)}: looked for "
        f"{', '.join(map(repr, LABELS))}, or element 1 of a tuple{beside}. Pass a "
        "loss(outputs, batch), or labels=, a key or a function of the batch."
    )


def _shown(key: Key) -> str:
    return repr(key) if isinstance(key, str) else f"element {key}"
