"""Arithmetic on step counts, correct for every int32."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation

Schedule = Callable[..., jax.Array]
LAST = 2**31 - 1


def step_of(count: Any, last: int | jax.Array = LAST) -> jax.Array:
    """The step as int32, held within [0, last]."""
    if isinstance(count, int | np.integer) and not isinstance(count, bool):
        count = np.int32(min(max(int(count), 0), LAST))  # of any size, as Python has them
    dtype = getattr(count, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"a schedule's argument must be an integer step, not {dtype or repr(count)}; count "
            "optimizer steps, not epochs."
        )
    count = jnp.asarray(count)
    if count.dtype.itemsize < 4:  # the bounds of int32 do not fit in its range
        count = count.astype(jnp.int32)
    return jnp.clip(count, 0, last).astype(jnp.int32)


def real(x: Any) -> jax.Array:
    """The value in JAX's default float dtype: float32, or float64 if x64 is enabled."""
    return jnp.asarray(x).astype(jnp.result_type(float))


def fraction(count: Any, length: int, begin: int = 0) -> jax.Array:
    """(count − begin) / length, clipped to [0, 1].

    The difference is computed in int32, where it is exact.
    """
    return ratio(jnp.clip(step_of(count) - begin, 0, length), length)


def ratio(done: jax.Array, length: Any) -> jax.Array:
    """done/length, clipped to [0, 1], because a compiled division may round to just above 1."""
    return jnp.clip(real(done) / length, 0, 1)


def boundaries_of(given: Any, of: str, *, least: int = 1) -> list[int]:
    """The boundaries as whole numbers in strictly increasing order; anything else is refused."""
    validation.listed("boundaries", given, "[30, 80]", of)
    found = list(given)
    for number in found:
        validation.integer("every boundary", number, of, least=least)
    for before, after in itertools.pairwise(found):
        if after <= before:
            raise ValueError(
                f"{of}: boundaries must increase, but {after} follows {before} in {found}."
            )
    return [int(number) for number in found]


def as_schedule(of: str, given: Any, name: str = "schedule") -> Schedule:
    """A schedule; a number becomes a constant schedule."""
    if callable(given):
        validation.function(f"{of}: {name}", given, "of the step", takes=1)
        return given
    validation.number(name, given, of, least=0)
    return lambda count: real(given) + 0 * real(step_of(count))
