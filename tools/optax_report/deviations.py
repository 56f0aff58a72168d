"""The section of the page on Optax's deviations from papers, each with a program."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import optax

# The kit's losses are positive, so none of its runs shows this.
PLATEAU = """# a plateau below zero: a higher loss is better than the best
import jax.numpy as jnp
import optax

tx = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.1)
g = jnp.ones(1)
state = tx.init(g)
for loss in (-1.0, -0.95):  # the second is no better than the first
    u, state = tx.update(g, state, value=loss)
print(u)
assert u == 0.5, u"""


def section() -> Iterator[str]:
    """The lines of the section: the paper's rule, Optax's, and the shortest program for each."""
    from trainkit.laws import DEVIATIONS

    kinds: dict[tuple[str, str, str], list[str]] = {}
    for name, d in DEVIATIONS.items():
        kinds.setdefault((d.paper, d.optax, d.since), []).append(name)
    yield "## Where it departs from papers\n"
    yield (
        'To the kit `like="adan"` is the rule of the paper, and `like="optax.adan"` is Optax\'s. '
        "Releases before the one that is named were not looked at.\n"
    )
    yield "| | rules | the paper | Optax | seen in |"
    yield "|---|---|---|---|---|"
    for i, ((paper, ours, since), names) in enumerate(kinds.items(), 1):
        yield f"| {i} | {', '.join(names)} | {paper} | {ours} | {since} |"
    yield ""
    for i, names in enumerate(kinds.values(), 1):
        yield f"<details><summary>Program {i} ({names[0]})</summary>\n"
        yield f"```text\n{program(names[0])}\n```\n\n</details>\n"


def program(name: str) -> str:
    """A program that fails where the rule of Optax departs from its paper."""
    from trainkit import laws
    from trainkit.laws.oracles.catalogue import function

    if name == "reduce_on_plateau":
        return PLATEAU
    made = function(name)
    h = arguments(name, made) | dict(laws.DEVIATIONS[name].shown)
    report = laws.check(
        functools.partial(made, **h), like=name, hyperparams=h, laws=["oracle"], examples=5
    )
    (failure,) = report.failures
    return failure.reproducer.strip()


def _plain(params: Any) -> Any:
    return jax.tree.map(lambda x: optax.contrib.MuonDimensionNumbers(), params)


def arguments(name: str, made: Any) -> dict[str, Any]:
    """The arguments of the rule, besides those that show the deviation."""
    given: dict[str, Any] = {}
    if "learning_rate" in inspect.signature(made).parameters:
        given["learning_rate"] = 1e-2
    if name == "schedule_free":
        rate = optax.linear_schedule(1e-3, 1e-2, 10)
        given |= {"base_optimizer": optax.sgd(rate), "learning_rate": rate}
    if name == "mechanize":
        given["base_optimizer"] = optax.sgd(1e-2)
    if name == "scale_by_muon":
        given["weight_dimension_numbers"] = _plain
    return given
