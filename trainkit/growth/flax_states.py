"""Training states of Flax, and other states that `growth.grow` does not take as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trainkit._core.paths import named_leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.params import grow_params
from trainkit.growth.models import functions
from trainkit.step.state import TrainState

PyTree = Any
_OWN = ("step", "apply_fn", "params", "tx", "opt_state")  # the fields of Flax's TrainState


class Taken(NamedTuple):
    """A state as a `TrainState`, and what makes the grown one a state of the old class.

    Attributes:
      state: the `TrainState`.
      back: (grown `TrainState`, map) -> a state of the class that was given.
    """

    state: TrainState
    back: Callable[[TrainState, MapData], Any]


def taken(given: Any, small: Any, big: Any, inputs: tuple[Any, ...]) -> Taken:
    """A Flax TrainState, or a subclass of it, as a `TrainState`.

    Fields with the name of a collection of the model ("batch_stats") are model state. Fields with
    the leaves of the parameters (averages of them) grow like these. Counters and keys stay.

    Args:
      given: the state of the small model.
      small, big: the models, for `apply_fn`.
      inputs: their inputs, arrays or shapes.

    Raises:
      GrowthError: another state; or a field has arrays of another kind.
    """
    if isinstance(given, TrainState) or all(
        hasattr(given, name) for name in ("params", "opt_state", "model_state")
    ):
        return Taken(given, lambda grown, growth: grown)
    fields = _fields(given)
    if not set(_OWN) <= set(fields):
        raise no_state(given)
    params, state = given.params, {}
    collections = functions(small, inputs, params, None, "small").variables["model_state"]
    sizes = {name: jnp.shape(x) for name, x in named_leaves(params).items()}
    averages = []
    for field in fields:
        value = getattr(given, field)
        if field in _OWN or not jax.tree.leaves(value):
            continue
        if field in collections:
            state[field] = value
        elif {name: jnp.shape(x) for name, x in named_leaves(value).items()} == sizes:
            averages.append(field)
        elif not all(map(_stays, jax.tree.leaves(value))):
            raise GrowthError(
                f"the field {field} of the {type(given).__name__} has arrays that are neither "
                "a collection of the model nor like its parameters",
                hint=f"grow state.replace({field}=None), and make {field} for the grown state anew",
            )
    step = jnp.asarray(given.step, jnp.int32)
    made = TrainState(step, params, state, given.opt_state, jax.random.key(0))

    def back(grown: TrainState, growth: MapData) -> Any:
        inside = growth.under("params")
        changes = {name: grow_params(inside, getattr(given, name)) for name in averages}
        changes |= {name: grown.model_state[name] for name in state}
        bound = getattr(given.apply_fn, "__self__", None)
        if given.apply_fn is small or bound is small or (bound is not None and bound == small):
            changes["apply_fn"] = getattr(big, "apply", big)
        return given.replace(params=grown.params, opt_state=grown.opt_state, **changes)

    return Taken(made, back)


def _fields(given: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(given)] if dataclasses.is_dataclass(given) else []


def _stays(x: Any) -> bool:
    """Whether a leaf of a state is a number, or a random key."""
    dtype = getattr(x, "dtype", None)
    return jnp.ndim(x) == 0 or (dtype == jnp.uint32 and jnp.shape(x) in ((2,), (4,)))


def no_state(given: Any) -> GrowthError:
    """The error of something else than a state, with the call that makes a state of it."""
    name = type(given).__name__
    library = next(
        (b.__module__ for b in type(given).__mro__ if b.__module__.startswith("flax.nnx")), ""
    )
    make = "TrainState.create({}, tx{})"
    if library:
        pure = "nnx.to_pure_dict(nnx.state({}, {}))"
        hint = make.format(
            pure.format("small", "nnx.Param"),
            f", model_state={pure.format('small', 'nnx.BatchStat')}",
        )
        if name == "Optimizer":
            hint += ".replace(opt_state=optimizer.opt_state)"
        hint = f"pass {hint}"
    elif isinstance(given, bytes):
        hint = "read it with flax.serialization.msgpack_restore(…), and pass " + make.format(
            "read['params']", ""
        )
        hint += ".replace(opt_state=read['opt_state'])"
    elif isinstance(given, Mapping) and "params" in given:
        more = [key for key in given if key not in ("params", "opt_state", "step")]
        more = [key for key in more if jax.tree.leaves(given[key])]
        state = (
            ", model_state={" + ", ".join(f"{k!r}: d[{k!r}]" for k in more) + "}" if more else ""
        )
        hint = f"with d for this dict, pass {make.format('d[{!r}]'.format('params'), state)}"
        hint += ".replace(opt_state=d['opt_state'])" if "opt_state" in given else ""
    elif isinstance(given, Mapping):
        hint = f"pass {make.format('params', '')}, or use trainkit.growth.plan for parameters alone"
    else:
        hint = "make one by TrainState.create(params, tx), or use trainkit.growth.plan for "
        hint += "parameters alone"
    return GrowthError(f"state is a {name}, not a TrainState", hint=hint)
