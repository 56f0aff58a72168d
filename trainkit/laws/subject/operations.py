"""What the traced program of a rule tells: the precision it computes in, and whether it draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.jaxprs import equations
from trainkit.laws.protocol import ordinary

FINE = float(np.finfo(np.float32).eps)
DRAWS = {"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"}


def rounded_by(digit: float, rng: Any, x: Any) -> Any:
    """An array with every entry changed by a relative error of ± `digit`."""
    return x * (1 + digit * rng.choice([-1, 1], x.shape).astype(np.float32))


def storing(update: Any, dtype: Any) -> Any:
    """`update`, after which the state has no more digits than `dtype` holds."""

    def held(x: Any) -> Any:
        return x.astype(dtype).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def stored(g: Any, s: Any, p: Any) -> Any:
        u, s = update(g, s, p)
        return u, jax.tree.map(held, s)

    return stored


def coarsest(subject: Any) -> float:
    """The rounding error of the coarsest float in which a float64 gradient is computed with."""
    if "coarsest" not in subject.memo:
        kinds = {getattr(v.aval, "dtype", None) for e in _equations(subject, "float64")
                 for v in e.outvars}  # fmt: skip
        digits = [jnp.finfo(k).eps for k in kinds if k and jnp.issubdtype(k, jnp.floating)]
        subject.memo["coarsest"] = float(max(digits, default=0.0))
    return float(subject.memo["coarsest"])


def draws(subject: Any) -> bool:
    """Whether `init` or `update` draws random numbers."""
    if "draws" not in subject.memo:
        names = {e.primitive.name for e in _equations(subject, "float32")}
        subject.memo["draws"] = bool(names & DRAWS)
    return bool(subject.memo["draws"])


def _equations(subject: Any, dtype: str) -> list[Any]:
    step = lambda g, p: subject.update(g, subject.tx.init(p), p)
    with ordinary(), jax.enable_x64(dtype == "float64"):
        tree = {"b": jnp.ones(3, dtype), "w": jnp.ones((2, 3), dtype)}
        return list(equations(jax.make_jaxpr(step)(tree, tree).jaxpr))
