"""Refusing bad input by name, before anything is traced or compiled."""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import numpy as np

PyTree = Any

# What a hyper-parameter's name says about the values it may take. Only names in this table are
# checked, and only these are injected: everything else (flags, sizes, masks) shapes the program.
KINDS: dict[str, str] = {
    **dict.fromkeys(
        (
            "learning_rate",
            "adam_learning_rate",
            "weight_decay",
            "adam_weight_decay",
            "weight_decay_rate",
            "strength",
            "eps",
            "eps_root",
            "epsilon",
            "adam_eps_root",
            "damping",
            "temperature",
            "initial_accumulator_value",
            "initial_scale",
            "eta",
            "gamma",
            "min_delta",
            "tol",
            "weight_lr_power",
            "trust_coefficient",
            "threshold",
        ),
        "rate",
    ),
    **dict.fromkeys(
        (
            "b1",
            "b2",
            "b3",
            "beta",
            "beta1",
            "beta2",
            "rho",
            "momentum",
            "decay",
            "adam_b1",
            "adam_b2",
            "shampoo_beta",
        ),
        "beta",
    ),
    **dict.fromkeys(("max_norm", "max_value", "clip_threshold", "clipping", "max_delta"), "bound"),
    **dict.fromkeys(("clipping_threshold",), "bound"),
    "step_size": "number",
}

# Sizes and intervals, which shape the program: the least that each may be.
COUNTS: dict[str, int] = {
    "ns_steps": 1,
    "min_dim_size_to_factor": 1,
    "decay_offset": 0,
    "max_iterations": 1,
    "memory_size": 1,
    "update_interval": 1,
    "precondition_frequency": 1,
    "max_precond_dim": 0,
    "num_data": 1,
}


def concrete(value: Any) -> Any:
    """The Python number in `value`; `None` where there is none yet (tracers, schedules)."""
    if isinstance(value, bool | jax.core.Tracer):
        return None
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and np.ndim(value) == 0:
        return float(value) if jax.dtypes.issubdtype(value.dtype, np.number) else None
    return None


def rate(name: str, value: Any, of: str = "") -> None:
    """Refuses a negative or non-finite number."""
    number = concrete(value)
    if number is not None and not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{_of(of)}{name} must be finite and at least 0, got {value}.")


def number(name: str, value: Any, of: str = "") -> None:
    """Refuses a non-finite number."""
    found = concrete(value)
    if found is not None and not math.isfinite(found):
        raise ValueError(f"{_of(of)}{name} must be finite, got {value}.")


def positive(name: str, value: Any, of: str = "") -> None:
    """Refuses a number that is not finite and greater than 0."""
    number = concrete(value)
    if number is not None and not (math.isfinite(number) and number > 0):
        raise ValueError(f"{_of(of)}{name} must be finite and greater than 0, got {value}.")


def bound(name: str, value: Any, of: str = "") -> None:
    """Refuses a bound that is not greater than 0 (infinity is a bound: none)."""
    number = concrete(value)
    if number is not None and not number > 0:
        raise ValueError(f"{_of(of)}{name} must be greater than 0, got {value}.")


def beta(name: str, value: Any, of: str = "") -> None:
    """Refuses a decay rate outside [0, 1)."""
    number = concrete(value)
    if number is not None and not 0 <= number < 1:
        raise ValueError(f"{_of(of)}{name} must be in [0, 1), got {value}.")


def count(name: str, value: Any, of: str = "", *, least: int = 1) -> None:
    """Refuses what is not a whole number of at least `least` that fits an int32."""
    if isinstance(value, jax.core.Tracer):
        return
    whole = isinstance(value, numbers.Integral) or (
        isinstance(value, jax.Array) and np.issubdtype(value.dtype, np.integer)
    )
    if not whole or isinstance(value, bool):
        raise ValueError(f"{_of(of)}{name} must be a whole number, got {value!r}.")
    if not least <= int(value) < 2**31:
        raise ValueError(
            f"{_of(of)}{name} must be at least {least} and below 2³¹ (steps are int32), "
            f"got {value}."
        )


def hyperparameter(name: str, value: Any, of: str = "") -> None:
    """Applies the check that the hyper-parameter's name calls for; unknown names pass."""
    kind = KINDS.get(name)
    if kind is not None and isinstance(value, str):
        raise TypeError(f"{_of(of)}{name} must be a number or a schedule, got {value!r}.")
    if kind is not None:
        {"rate": rate, "beta": beta, "bound": bound, "number": number}[kind](name, value, of)
    if name in COUNTS:
        count(name, value, of, least=COUNTS[name])


def need_params(of: str, params: PyTree) -> None:
    """Refuses an update without parameters where the rule needs them."""
    if params is None:
        raise ValueError(
            f"{of} needs the parameters: call update(updates, state, params), not "
            "update(updates, state)."
        )


def same_tree(found: PyTree, expected: PyTree, what: str, of: str) -> None:
    """Refuses two trees that differ, naming the first path at which they do."""
    # Paths cost more than leaves: they are made only where there is something to name.
    plain: Any = jax.tree.structure(found)
    if plain == jax.tree.structure(expected) and all(
        np.shape(a) == np.shape(b)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ):
        return
    found_def: Any
    found_leaves, found_def = jax.tree_util.tree_flatten_with_path(found)
    expected_leaves, expected_def = jax.tree_util.tree_flatten_with_path(expected)
    if found_def == expected_def:
        for (path, a), (_, b) in zip(found_leaves, expected_leaves, strict=True):
            if np.shape(a) != np.shape(b):
                raise ValueError(
                    f"{of}: the updates have shape {np.shape(a)} at {name_of(path)!r} where the "
                    f"{what} has {np.shape(b)}."
                )
        return
    for (path_a, _), (path_b, _) in zip(found_leaves, expected_leaves, strict=False):
        if path_a != path_b:
            raise ValueError(
                f"{of}: the updates and the {what} are different trees; they first differ at "
                f"{name_of(path_a)!r} (updates) and {name_of(path_b)!r} ({what})."
            )
    if len(found_leaves) != len(expected_leaves):
        more = found_leaves if len(found_leaves) > len(expected_leaves) else expected_leaves
        here, there = ("updates", what) if more is found_leaves else (what, "updates")
        path = more[min(len(found_leaves), len(expected_leaves))][0]
        raise ValueError(
            f"{of}: the updates and the {what} are different trees; the first difference is "
            f"{name_of(path)!r}, which the {here} have and the {there} lack."
        )
    raise ValueError(
        f"{of}: the updates and the {what} have the same leaves in different containers: "
        f"{found_def} and {expected_def}."
    )


def name_of(path: tuple[Any, ...]) -> str:
    """A key path as one writes it: `dense/kernel`."""
    parts = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                parts.append(str(getattr(key, attribute)))
                break
        else:
            parts.append(str(key))
    return "/".join(parts)


def _of(of: str) -> str:
    return f"{of}: " if of else ""
