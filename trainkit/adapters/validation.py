"""Checks of an adapter: its loss, its options, and parameters for its module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from trainkit._core import validation
from trainkit._core.paths import named_leaves
from trainkit._core.validation.trees import differences
from trainkit.adapters.targets import LABELS, check_part

PyTree = Any


def check_options(
    loss: Any, mode: Any, labels: Any, weights: Any, rngs: Any = (), sown: Any = ()
) -> None:
    """Raises TypeError for invalid options that `from_linen` and `from_nnx` share."""
    takes = 3 if callable(loss) and takes_sown(loss) else 2
    validation.function("loss", loss, "(outputs, batch) -> losses", takes=takes)
    for name, part in (("labels", labels), ("weights", weights)):
        check_part(name, part)
    if mode is not None:
        validation.mapping("mode", mode, "{'use_dropout': True}")
        for name, value in mode.items():
            validation.flag(f"mode[{name!r}]", value)
    for name, given in (("rngs", rngs), ("sown", sown)):
        validation.listed(name, given, "('dropout',)")
        for one in given:
            validation.text(f"every name in {name}", one)


def check_fits(given: PyTree, made: PyTree, name: str, dtypes: bool = True) -> None:
    """Raises ValueError, naming the first leaf, for parameters that do not fit the model."""
    found = differences(named_leaves(given), named_leaves(made), dtypes=dtypes)
    for leaf, (a, b) in found.items():
        hint = "; give parameters of this model, and batches of the shape that they are for."
        if isinstance(given, Mapping) and set(given) == {"params"} and name == "params":
            hint = ': pass variables["params"], not all variables.'
        raise ValueError(f"{name}: {leaf!r} is {a}, where the model has {b} for this batch{hint}")
    own: Any = jax.tree.structure(given)
    if own != jax.tree.structure(made):
        raise ValueError(
            f"{name} has the model's leaves in other containers: {own}, not "
            f"{jax.tree.structure(made)}. Put them in: jax.tree.unflatten(jax.tree.structure("
            f"model.state(tx, batch).{name}), jax.tree.leaves({name}))."
        )


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    """The positional parameters of a function, in order."""
    try:
        found = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def takes_labels(loss: Callable[..., Any]) -> bool:
    """Whether the loss's second argument is named labels or targets, as in Optax's losses."""
    found = _parameters(loss)
    return len(found) > 1 and found[1].name in LABELS


def takes_sown(loss: Callable[..., Any]) -> bool:
    """Whether the loss has a third parameter without a default."""
    found = _parameters(loss)
    return len(found) > 2 and found[2].default is inspect.Parameter.empty
