"""What a rule and a model are made of: the words of a refusal, and whether a state fits at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainkit._core.identity import digest
from trainkit._core.paths import named_leaves
from trainkit._core.validation import concrete

PyTree = Any
OPTIMIZER, PARAMETERS, RULE, CONSTANTS = "optimizer state", "parameters", "rule", "constants"


def made_of(tx: Any, params: PyTree, opt_state: PyTree) -> dict[str, Any]:
    """JSON: digests of the leaves of both trees, and the rule's name and numbers, where it has any.

    Without a name of its own, a rule is known by the classes of its states.
    """
    given = tx.hyperparameters() if hasattr(tx, "hyperparameters") else {}
    numbers = {name: concrete(value) for name, value in given.items()}
    return {
        OPTIMIZER: _leaves(opt_state),
        PARAMETERS: _leaves(params),
        RULE: getattr(tx, "name", None) or ", ".join(_kinds(opt_state)) or "a rule without a state",
        CONSTANTS: {name: float(x) for name, x in numbers.items() if x is not None},
    }


def fits(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Whether a state that was saved then can be taken for the one now, as far as is known."""
    return then is None or now is None or all(then[k] == now[k] for k in (OPTIMIZER, PARAMETERS))


def other_rule(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """How a rule differs that computes something else."""
    if then is None or now is None:
        return "another rule, or other constants in it"
    if then[RULE] != now[RULE]:
        return f"another rule, {then[RULE]} there, {now[RULE]} now"
    if then[OPTIMIZER] != now[OPTIMIZER] and then[PARAMETERS] == now[PARAMETERS]:
        return "the same rule with another state (a dtype, or an option)"
    a, b = then[CONSTANTS], now[CONSTANTS]
    lines = [
        f"{name} {a.get(name, 'unknown')} there, {b.get(name, 'unknown')} now"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]
    return "; ".join(lines) or "constants of the rule (a rate, a coefficient), or its formula"


def _leaves(tree: PyTree) -> str:
    """A digest of the names, dtypes and shapes."""
    found = {name: [str(x.dtype), list(np.shape(x))] for name, x in named_leaves(tree).items()}
    return digest(json.dumps(found, sort_keys=True))


def _kinds(state: Any) -> list[str]:
    """The classes of the states that hold something, from the outside in."""
    if isinstance(state, Mapping):
        return [kind for child in state.values() for kind in _kinds(child)]
    if not isinstance(state, tuple | list):
        return []
    own = [type(state).__name__] if getattr(state, "_fields", ()) else []
    return own + [kind for child in state for kind in _kinds(child)]
