"""What an adapter refuses: losses, options and parameters that are not for its module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from trainkit._core import validation
from trainkit._core.paths import named_leaves
from trainkit._core.validation.trees import differences
from trainkit.adapters.batches import LABELS

PyTree = Any


def check_options(loss: Any, mode: Any, rngs: Any = (), sown: Any = ()) -> None:
    """Refuses what `from_linen` and `from_nnx` share of their arguments, where it is no such."""
    takes = 3 if callable(loss) and takes_sown(loss) else 2
    validation.function("loss", loss, "(outputs, batch) -> losses", takes=takes)
    if mode is not None:
        validation.mapping("mode", mode, "{'use_dropout': True}")
        for name, value in mode.items():
            validation.flag(f"mode[{name!r}]", value)
    for name, given in (("rngs", rngs), ("sown", sown)):
        validation.listed(name, given, "('dropout',)")
        for one in given:
            validation.text(f"every name in {name}", one)


def check_fits(given: PyTree, made: PyTree, name: str, dtypes: bool = True) -> None:
    """Refuses parameters that are not those of the model, naming the first leaf that differs."""
    found = differences(named_leaves(given), named_leaves(made), dtypes=dtypes)
    for leaf, (a, b) in found.items():
        hint = "."
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
    """What a function may be given by position, in order."""
    try:
        found = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def takes_labels(loss: Callable[..., Any]) -> bool:
    """Whether the loss's second argument is called labels or targets, as all of Optax's are."""
    found = _parameters(loss)
    return len(found) > 1 and found[1].name in LABELS


def takes_sown(loss: Callable[..., Any]) -> bool:
    """Whether the loss has a third parameter that it cannot do without."""
    found = _parameters(loss)
    return len(found) > 2 and found[2].default is inspect.Parameter.empty
