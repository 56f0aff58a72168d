"""A check, on the device, that the parameters of a state are finite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import named_leaves


def nonfinite_params(state: Any) -> str | None:
    """The name of a parameter with a NaN or an infinity; `None` if all are finite.

    >>> class State:
    ...     params = {"w": jnp.ones(3), "b": jnp.float32(jnp.nan)}
    >>> nonfinite_params(State())
    'params/b'
    """
    leaves = {
        name: leaf
        for name, leaf in named_leaves(getattr(state, "params", {})).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    }
    found = jax.device_get(_finite(leaves))
    return next((f"params/{name}" for name, finite in found.items() if not finite), None)


@jax.jit
def _finite(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.isfinite(leaf).all() for name, leaf in leaves.items()}
