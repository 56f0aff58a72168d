"""The hyper-parameters and the learning rate that an update used, under names that read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit.step.norms import found_hyperparams

PyTree = Any
RATE = "learning_rate"
PACE = "pace"  # a hyper-parameter that multiplies the updates of a whole rule, see `paced`
Factor = tuple[tuple[str, ...], Any]  # the labels above it, and a number or a schedule


def reported(opt_state: PyTree) -> dict[str, jax.Array]:
    """The hyper-parameters in an optimizer state.

    Where several parts have one of the same name, it has the label of its part behind it, such as
    `learning_rate/body`; without labels that differ, the part's path in the state.
    """
    found = found_hyperparams(opt_state)
    labelled = [(name, label(keys), path) for path, keys, name, _ in found]
    names = [name for name, *_ in labelled]
    pairs = [(name, words) for name, words, _ in labelled]
    return {
        name if names.count(name) == 1
        else f"{name}/{words}" if words and pairs.count((name, words)) == 1
        else f"{name}/{path}": value
        for (name, words, path), (*_, value) in zip(labelled, found, strict=True)
    }  # fmt: skip


def label(keys: tuple[str, ...]) -> str:
    """The keys of dicts above a value, without what is there for regular expressions only.

    >>> label(("body/.*",)), label((".*",)), label(("head$", "kernel"))
    ('body', 'rest', 'head/kernel')
    """
    bare = [re.sub(r"^[\^]?(\.\*)?/?|/?(\.\*)?[$]?$", "", key) for key in keys]
    return "/".join(words or "rest" for words in bare)


def factors(tx: optax.GradientTransformation) -> list[Factor]:
    """What an update is multiplied by: the numbers and schedules of `optax.scale` and its kind.

    A rule does not keep its learning rate; it is read from what the rule's functions close over.
    Rules that are made of two others side by side have none, and neither have those whose steps
    depend on the loss: line searches, Polyak's step size, `reduce_on_plateau`.
    """
    found = list(_factors(tx.update, ()))
    return [] if any(factor is None for _, factor in found) else found


def _factors(update: Any, labels: tuple[str, ...]) -> Iterator[Factor]:
    cells = _closed_over(update)
    kind = getattr(update, "__qualname__", "")
    if kind == "scale.<locals>.update_fn":
        yield labels, cells["step_size"]
    elif kind == "scale_by_schedule.<locals>.update_fn":
        yield labels, cells["step_size_fn"]
    elif callable(update) and "value" in inspect.signature(update).parameters:
        yield labels, None
    elif sum(isinstance(x, optax.GradientTransformation) for x in cells.values()) < 2:
        for value in cells.values():
            yield from _inside(value, labels)


def _inside(value: Any, labels: tuple[str, ...]) -> Iterator[Factor]:
    if isinstance(value, optax.GradientTransformation):
        yield from _factors(value.update, labels)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _inside(value[key], (*labels, str(key)))
    elif isinstance(value, tuple | list):
        for item in value:
            if callable(item):
                yield from _factors(item, labels)
            else:
                yield from _inside(item, labels)


def _closed_over(function: Any) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return found


def in_force(found: list[Factor], opt_state: PyTree) -> dict[str, jax.Array]:
    """The learning rates of the next update, from the state before it.

    >>> tx = optax.sgd(optax.linear_schedule(1.0, 0.0, 10))
    >>> rates = in_force(factors(tx), tx.init({"w": jnp.ones(2)}))
    >>> {name: float(rate) for name, rate in rates.items()}
    {'learning_rate': 1.0}
    """
    is_one = lambda x: isinstance(x, optax.ScaleByScheduleState)
    counts = [x.count for x in jax.tree.leaves(opt_state, is_leaf=is_one) if is_one(x)]
    if sum(callable(factor) for _, factor in found) != len(counts):
        return {}  # what is closed over is not what runs
    following = iter(counts)
    products: dict[tuple[str, ...], Any] = {}
    for labels, factor in found:
        value = factor(next(following)) if callable(factor) else factor
        products[labels] = products.get(labels, 1.0) * value
    whole = products.pop((), 1.0) if len(products) > 1 else 1.0  # before or after the parts
    return {
        "/".join(filter(None, (RATE, label(labels)))): jnp.asarray(-whole * product, jnp.float32)
        for labels, product in products.items()
        if not isinstance(whole * product, int | float) or whole * product < 0
    }


def with_pace(values: dict[str, Any]) -> dict[str, Any]:
    """The rates as they were in force, in a rule whose updates are multiplied by a pace.

    >>> with_pace({"learning_rate/body": 0.5, "pace": 0.25, "beta": 0.9})
    {'learning_rate/body': 0.125, 'pace': 0.25, 'beta': 0.9}
    """
    if PACE not in values:
        return values
    pace = values[PACE]
    return {n: v * pace if n.split("/")[0] == RATE else v for n, v in values.items()}
