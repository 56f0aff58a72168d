"""What a run is, as far as that shows in what `fit` is given: its hyper-parameters and its data."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

from trainkit._core.identity import digest, lasting
from trainkit._core.paths import path_name
from trainkit._core.processes import gathered, same
from trainkit.step.norms import hyperparams

PyTree = Any
# What `fit(resume=...)` may say: that all is as it was, or which of the two is not.
HYPERPARAMETERS, DATA = "hyperparameters", "data"
RESUME = ("same run", f"new {HYPERPARAMETERS}", f"new {DATA}")


def run_identity(step: Any, state: Any, data: Any) -> dict[str, dict[str, Any]]:
    """What may not change without a word when a run goes on; JSON.

    How the work is spread (placement, devices, steps a call, micro-batches) is not part of it.
    """
    opt_state = getattr(state, "opt_state", None)
    rates: dict[str, Any] = {name: float(value) for name, value in hyperparams(opt_state).items()}
    if hasattr(step, "tx") and hasattr(state, "params"):
        rates["optimizer"] = _program(step.tx, state)
    if hasattr(step, "precision"):
        rates["precision"] = lasting(step.precision, "precision")
    names = ("seed", "size", "batch_size", "shuffle")
    found = {name: lasting(getattr(data, name), name) for name in names if hasattr(data, name)}
    identity = {HYPERPARAMETERS: rates, DATA: found}
    for part, values in identity.items():
        named = {f"{part}: {name}": value for name, value in values.items()}
        same(named, "a run is the same in every process.")
    if hasattr(data, "fingerprint"):
        # Processes have the same data, or each its own.
        contents = gathered(data.fingerprint())
        found["content"] = contents[0] if len(set(contents)) == 1 else digest(" ".join(contents))
    return identity


def with_hyperparameters(opt_state: PyTree, new: PyTree) -> PyTree:
    """An optimizer state with the hyper-parameters that another of its structure holds."""

    def choose(path: Any, old: Any, other: Any) -> Any:
        return other if "hyperparams" in path_name(path).split("/") else old

    return jax.tree_util.tree_map_with_path(choose, opt_state, new)


def _program(tx: Any, state: Any) -> str | None:
    """A digest of the update rule as JAX sees it, with the numbers that its closures hold."""
    try:
        with jax.numpy_dtype_promotion("standard"):
            traced = jax.make_jaxpr(tx.update)(state.params, state.opt_state, state.params)
    except Exception:  # a rule that needs more than these, such as a line search
        return None
    # Addresses of functions differ from process to process.
    text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))
    return digest(text + "".join(digest(np.asarray(const)) for const in traced.consts))
