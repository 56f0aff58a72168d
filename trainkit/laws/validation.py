"""What `check` and `check_schedule` refuse of their arguments before a law is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit._core import validation


def check_arguments(
    level: str, examples: int, seed: int, like: str | None, hyperparams: Any
) -> None:
    validation.choice("level", level, ("standard", "strict"))
    validation.integer("examples", examples, least=0, hint="it is a number of trajectories")
    validation.integer("seed", seed, least=0, below=validation.SEEDS)
    if like is not None:
        validation.text("like", like, hint="the name of an Optax function, such as 'adam'")
    if hyperparams is not None:
        validation.mapping("hyperparams", hyperparams, "{'learning_rate': 1e-3}")
        for name, value in hyperparams.items():
            if name in validation.HYPERPARAMETERS and isinstance(value, str | bool):
                validation.number(name, value, "hyperparams")
    if like is None and hyperparams:
        raise ValueError("hyperparams say what like= would get: pass like='adam', or whichever")


def check_masks(hyperparams: Mapping[str, Any]) -> None:
    for name, value in hyperparams.items():
        if "mask" in name and not (value is None or isinstance(value, bool) or callable(value)):
            raise ValueError(
                f"{name} is a tree, which fits one tree of parameters only, and the laws try many: "
                f"make the rule with a function of the parameters, {name}=lambda params: …"
            )


def check_extra(extra_args: Any) -> None:
    """Refuses extra arguments that are neither a mapping nor a function that makes one."""
    if extra_args is not None and not callable(extra_args):
        validation.mapping("extra_args", extra_args, "{'value': 1.0}")
