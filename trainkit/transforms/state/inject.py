"""Hyper-parameters in the optimizer state, which can be read and changed during a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.dtypes import widest
from trainkit.transforms.rule import Rule, check_arguments, check_masks, guarded, numbers_of

PyTree = Any


class InjectState(NamedTuple):
    """State of `inject`.

    Attributes:
      count: int32 scalar, the number of updates, at which schedules are evaluated.
      hyperparams: name -> scalar, the values of the last update.
      scheduled: name -> bool scalar, whether the schedule is used (not after a value was set).
      inner_state: the state of the rule itself.
    """

    count: Any  # an array; tuples have a method of this name
    hyperparams: dict[str, jax.Array]
    scheduled: dict[str, jax.Array]
    inner_state: PyTree


def inject(rule: Rule | Callable[..., Any]) -> Any:
    """Stores the numeric hyper-parameters of a rule in its state, as float32 (or float64) scalars.

    `inject(adamw(1e-3))` for a rule of this package; `inject(optax.adamw)(learning_rate=1e-3)` for
    any other factory, called as usual. Numbers and schedules are injected if their names are those
    of rates, betas or bounds. Other arguments stay static.

    Unlike in `optax.inject_hyperparams`, hyper-parameters are never stored in the dtype of the
    parameters, where β₂ = .999 would become 1 in bfloat16, and the first update of AdamW NaN. All
    arithmetic is in the widest dtype of the tree, or float32 if that is narrower.

    After a scheduled value is `set`, its schedule is ignored until the value is set to `None`.
    Run-time parameters of a schedule, such as `decay_start` of `trainkit.schedules.wsd`, are
    hyper-parameters too.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.inject(tt.adamw(learning_rate=1e-3))
    >>> state = tx.init({"w": jnp.ones(3, jnp.bfloat16)})
    >>> round(float(state.hyperparams["b2"]), 6), state.hyperparams["b2"].dtype
    (0.999, dtype('float32'))
    """
    if isinstance(rule, Rule):
        return _inject(rule.factory, rule.arguments, rule.name, rule.needs_params)
    if isinstance(rule, optax.GradientTransformation):
        raise TypeError(
            "inject needs a rule of trainkit.transforms or a factory: write "
            "inject(optax.adamw)(learning_rate=…), not inject(optax.adamw(…))."
        )
    validation.function(
        "rule", rule, "that makes a gradient transformation, or one of this package"
    )
    signature = inspect.signature(rule)

    def make(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        name = getattr(rule, "__name__", "inject")
        bound = validation.bound(name, rule, args, kwargs)
        check_arguments(signature, bound.arguments, name)
        return _inject(rule, dict(bound.arguments), name, False)

    return make


def _inject(
    factory: Any, arguments: dict[str, Any], name: str, needs_params: bool
) -> optax.GradientTransformationExtraArgs:
    numeric = numbers_of(arguments)
    schedules = {key: value for key, value in numeric.items() if callable(value)}
    runtime = _runtime_parameters(schedules)
    fixed = {key: value for key, value in arguments.items() if key not in numeric}

    def value_of(key: str, count: jax.Array, hyperparams: dict[str, Any], dtype: Any) -> jax.Array:
        own = {p: hyperparams[stored] for stored, (k, p, _) in runtime.items() if k == key}
        return jnp.asarray(schedules[key](count, **own)).astype(dtype)

    def build(hyperparams: dict[str, Any]) -> optax.GradientTransformationExtraArgs:
        values = {key: hyperparams[key] for key in numeric}
        return optax.with_extra_args_support(factory(**fixed, **values))

    def init(params: PyTree) -> InjectState:
        check_masks(arguments, params, name)
        dtype = widest(params)
        count = jnp.zeros((), jnp.int32)
        hyperparams = {s: jnp.asarray(value, jnp.int32) for s, (_, _, value) in runtime.items()}
        for key, value in numeric.items():
            hyperparams[key] = (
                value_of(key, count, hyperparams, dtype)
                if key in schedules
                else jnp.asarray(value).astype(dtype)
            )
        inner_init, _ = guarded(build(hyperparams), name, needs_params)
        return InjectState(
            count=count,
            hyperparams=hyperparams,
            scheduled={key: jnp.ones((), jnp.bool) for key in schedules},
            inner_state=inner_init(params),
        )

    def update(
        updates: PyTree, state: InjectState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, InjectState]:
        hyperparams = dict(state.hyperparams)
        for key in schedules:
            held = hyperparams[key]
            planned = value_of(key, state.count, hyperparams, held.dtype)
            hyperparams[key] = jnp.where(state.scheduled[key], planned, held)
        # Scalars get the dtype of the leaves, because strict promotion allows no mixture.
        dtype = np.promote_types(
            widest(updates, params), widest({k: hyperparams[k] for k in numeric})
        )
        inner = build({k: hyperparams[k].astype(dtype) for k in numeric})
        _, inner_update = guarded(inner, name, needs_params, dtype=dtype)
        new_updates, inner_state = inner_update(updates, state.inner_state, params, **extra)
        return new_updates, InjectState(
            count=optax.safe_increment(state.count),
            hyperparams=hyperparams,
            scheduled=state.scheduled,
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _runtime_parameters(schedules: dict[str, Any]) -> dict[str, tuple[str, str, int]]:
    """Stored name -> (hyper-parameter, parameter of its schedule, first value)."""
    found: dict[str, tuple[str, str, int]] = {}
    for key, schedule in schedules.items():
        for parameter, value in getattr(schedule, "runtime", {}).items():
            stored = parameter if key == "learning_rate" else f"{key}_{parameter}"
            found[stored] = (key, parameter, value)
    return found
