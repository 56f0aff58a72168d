"""Optax transformations as calls, reconstructed from the variables in their closures."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import optax

from trainkit.laws.reproducers.literals import CannotWrite
from trainkit.laws.reproducers.names import public

Write = Callable[[Any], str]


def maker_of(f: Any) -> Callable[..., Any] | None:
    """The public function of Optax whose inner function `f` is."""
    module, name = getattr(f, "__module__", None) or "", getattr(f, "__qualname__", "")
    if module.split(".")[0] != "optax" or "<locals>" not in name:
        return None
    homes = (optax, optax.contrib, optax.transforms)
    made = (getattr(home, name.split(".")[0], None) for home in homes)
    if (maker := next(filter(callable, made), None)) is None:
        raise CannotWrite(name)
    return maker


def call_of(maker: Any, fs: list[Any], write: Write) -> str:
    """`maker(…)` with the arguments from the closures of its result."""
    called = public(maker)
    if called is None:
        raise CannotWrite(repr(maker))
    held = _closure(fs)
    args = []
    for key, p in inspect.signature(maker).parameters.items():
        if key not in held:
            if p.default is inspect.Parameter.empty:
                raise CannotWrite(f"{called} needs {key}")
            continue
        if p.default is not inspect.Parameter.empty and p.default is held[key]:
            continue
        args.append(f"{key}={write(held[key])}")
    return f"{called}({', '.join(args)})"


def transformation(tx: Any, write: Write) -> str:
    """The code of a transformation: a call of Optax, or a pair of functions."""
    init, update = tx.init, tx.update
    name = getattr(update, "__qualname__", "").split(".")[0]
    ours = (getattr(update, "__module__", "") or "").split(".")[0] == "optax"
    held = _closure([init, update])
    if ours and name == "with_extra_args_support":
        return transformation(held["tx"], write)
    if ours and name == "chain":
        parts = zip(held["init_fns"], held["update_fns"], strict=True)
        made = [transformation(optax.GradientTransformation(i, u), write) for i, u in parts]
        return f"optax.chain({', '.join(made)})"
    if ours and name == "identity":
        return "optax.identity()"
    if ours and name == "inject_hyperparams":
        given = held["numeric_hps"] | held["other_hps"]
        given |= {key: s.schedule_fn for key, s in held["sched_hps"].items()}
        args = ", ".join(f"{key}={write(value)}" for key, value in given.items())
        return f"optax.inject_hyperparams({write(held['inner_factory'])})({args})"
    if ours and name == "scale_by_schedule":
        inner = _closure([held["step_size_fn"]])
        if set(inner) == {"m", "learning_rate"}:  # what scale_by_learning_rate makes of a schedule
            rate, flipped = write(inner["learning_rate"]), inner["m"] < 0
            return f"optax.scale_by_learning_rate({rate}, flip_sign={flipped})"
    if ours and name and hasattr(optax, name):
        return call_of(getattr(optax, name), [init, update], write)
    if getattr(init, "__name__", "") == "init_empty_state" or ours:
        maker = maker_of(update) if ours else None
        if maker is not None:
            return call_of(maker, [init, update], write)
    return f"optax.GradientTransformation({write(init)}, {write(update)})"


def _closure(fs: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for f in fs:
        found |= inspect.getclosurevars(f).nonlocals if isinstance(f, types.FunctionType) else {}
    return found
