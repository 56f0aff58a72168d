"""Decay schedules: functions of an integer step t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation
from trainkit.schedules.steps import LAST, Schedule, boundaries_of, fraction, ratio, real, step_of


def constant(init: float) -> Schedule:
    """η(t) = η₀. Optax: `optax.constant_schedule`.

    >>> print(constant(0.5)(7))
    0.5
    """
    validation.number("init", init, "constant", least=0)
    return lambda count: real(init) + 0 * real(step_of(count))


def exponential(
    init: float, rate: float, steps: int = 1, *, staircase: bool = False, end: float = 0.0
) -> Schedule:
    """η(t) = max(end, η₀ r^(t/T)), T = `steps`; ⌊t/T⌋ in the exponent with `staircase`.

    With a rate above 1 the value grows, up to an `end` above η₀.
    Optax: `optax.exponential_decay`.

    Raises:
      ValueError: a negative or non-finite value, a rate of 0, a rate above 1 without `end`, T < 1.

    >>> print(exponential(1.0, 0.5, steps=10)(20))
    0.25
    """
    of = "exponential"
    validation.number("init", init, of, least=0)
    validation.number("end", end, of, least=0)
    validation.number("rate", rate, of, above=0)
    validation.integer("steps", steps, of)
    validation.flag("staircase", staircase, of)
    if rate > 1 and not end >= init > 0:
        raise ValueError(f"{of}: a rate above 1 needs an end ≥ init > 0 to stop at, not {end}.")
    period = steps

    def schedule(count: Any) -> jax.Array:
        t = step_of(count)
        power = real(t // period) if staircase else real(t) / period
        if rate > 1:  # the exponent at which `end` is reached: beyond it the power overflows
            power = jnp.minimum(power, np.log(end / init) / np.log(rate))
            return jnp.minimum(init * real(rate) ** power, end)
        return jnp.maximum(init * real(rate) ** power, end)

    return schedule


def step(init: float, factor: float = 0.1, every: int = 30) -> Schedule:
    """η(t) = η₀ γ^⌊t/T⌋: multiplied by γ = `factor` every T = `every` steps.

    Optax: `optax.exponential_decay(staircase=True)`. For epochs, multiply by the steps per epoch.

    >>> [round(float(step(1.0, 0.1, every=30)(t)), 4) for t in (29, 30, 60)]
    [1.0, 0.1, 0.01]
    """
    validation.number("init", init, "step", least=0)
    validation.number("factor", factor, "step", above=0, most=1)
    validation.integer("every", every, "step")
    return exponential(init, factor, every, staircase=True)


def multi_step(init: float, boundaries: Sequence[int], factor: float = 0.1) -> Schedule:
    """η(t) = η₀ γ^#{b : t ≥ b}: multiplied by γ = `factor` at each boundary.

    The new value is used from its boundary on. Optax: `optax.piecewise_constant_schedule`.

    >>> [round(float(multi_step(1.0, [30, 80])(t)), 4) for t in (29, 30, 80)]
    [1.0, 0.1, 0.01]
    """
    validation.number("init", init, "multi_step", least=0)
    validation.number("factor", factor, "multi_step", above=0)
    boundaries = boundaries_of(boundaries, "multi_step")
    values = [init * factor**i for i in range(len(list(boundaries)) + 1)]
    return piecewise_constant(boundaries, values, _of="multi_step")


def piecewise_constant(
    boundaries: Sequence[int], values: Sequence[float], *, _of: str = "piecewise_constant"
) -> Schedule:
    """η(t) = values[i] for boundaries[i−1] ≤ t < boundaries[i]; one value more than boundaries.

    Keras changes the value after its boundary (t > b), this schedule at it. Optax takes factors
    instead of values.

    Raises:
      ValueError: boundaries out of order, or a wrong number of values.

    >>> s = piecewise_constant([10, 20], [1.0, 0.5, 0.1])
    >>> [round(float(s(t)), 4) for t in (0, 9, 10, 19, 20)]
    [1.0, 1.0, 0.5, 0.5, 0.1]
    """
    edges = boundaries_of(boundaries, _of)
    validation.listed("values", values, "[1.0, 0.1]", _of)
    if len(values) != len(edges) + 1:
        raise ValueError(
            f"{_of}: {len(edges)} boundaries need {len(edges) + 1} values, not {len(values)}."
        )
    for number in values:
        validation.number("every value", number, _of, least=0)

    def schedule(count: Any) -> jax.Array:
        passed = jnp.sum(step_of(count)[..., None] >= jnp.asarray(edges, jnp.int32), axis=-1)
        return jnp.take(real(jnp.asarray(values, jnp.result_type(float))), passed)

    return schedule


def polynomial(
    init: float, end: float, steps: int, *, power: float = 1.0, begin: int = 0
) -> Schedule:
    """η(t) = end + (η₀ − end) (1 − s)^power, s = (t − begin)/`steps` clipped to [0, 1].

    Optax: `optax.polynomial_schedule`, which is NaN under jit after its end for fractional powers.

    >>> [float(polynomial(1.0, 0.0, 10, power=0.5)(t)) for t in (0, 10, 2**31 - 1)]
    [1.0, 0.0, 0.0]
    """
    of = "polynomial"
    validation.number("init", init, of, least=0)
    validation.number("end", end, of, least=0)
    validation.number("power", power, of, above=0)
    validation.integer("steps", steps, of)
    validation.integer("begin", begin, of, least=0)
    return lambda count: end + (init - end) * (1 - fraction(count, steps, begin)) ** power


def linear(init: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """η(t) = η₀ + (end − η₀) s, s = (t − begin)/`steps` clipped to [0, 1].

    Optax: `optax.linear_schedule`.

    >>> print(linear(1.0, 0.0, 10)(5))
    0.5
    """
    return polynomial(init, end, steps, begin=begin)


def inverse_time(init: float, steps: int) -> Schedule:
    """η(t) = η₀ / (1 + t/T), T = `steps`: half at T. Not in Optax.

    >>> print(inverse_time(1.0, 10)(10))
    0.5
    """
    validation.number("init", init, "inverse_time", least=0)
    validation.integer("steps", steps, "inverse_time")
    return lambda count: init / (1 + real(step_of(count)) / steps)


def inverse_sqrt(init: float, steps: int = 1) -> Schedule:
    """η(t) = η₀ / √(1 + t/T), T = `steps`: the transformer's decay, finite at 0. Not in Optax.

    "Attention Is All You Need" uses it after a linear warm-up: `warmup(inverse_sqrt(η, n), n)`.

    >>> print(inverse_sqrt(1.0, 1)(3))
    0.5

    Vaswani et al., Attention Is All You Need, 2017.
    """
    validation.number("init", init, "inverse_sqrt", least=0)
    validation.integer("steps", steps, "inverse_sqrt")
    return lambda count: init / jnp.sqrt(1 + real(step_of(count)) / steps)


def dynamic(init: float) -> Schedule:
    """η(t) = η₀ / (1 + √t), the schedule of "dynamic" gradient descent. Not in Optax.

    >>> print(dynamic(1.0)(4))
    0.33333334
    """
    validation.number("init", init, "dynamic", least=0)
    return lambda count: init / (1 + jnp.sqrt(real(step_of(count))))


def cosine(init: float, steps: int, end: float = 0.0) -> Schedule:
    """η(t) = end + (η₀ − end) (1 + cos(π s))/2, s = t/`steps` clipped to [0, 1].

    `end` is a value, not a fraction of η₀. Optax: `optax.cosine_decay_schedule`.

    >>> [round(float(cosine(1.0, 10)(t)), 4) for t in (0, 5, 10, 11)]
    [1.0, 0.5, 0.0, 0.0]

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
    """
    validation.number("init", init, "cosine", least=0)
    validation.number("end", end, "cosine", least=0)
    validation.integer("steps", steps, "cosine")
    return lambda count: _cosine(init, end, fraction(count, steps))


def _cosine(init: Any, end: Any, s: jax.Array) -> jax.Array:
    # sin² instead of 1 + cos: exactly 1 at the start, and no cancellation at the end.
    return end + (init - end) * jnp.sin(jnp.pi / 2 * (1 - s)) ** 2


def cosine_restarts(
    init: float, steps: int, *, growth: int = 1, factor: float = 1.0, end: float = 0.0
) -> Schedule:
    """Cosine decay over `steps`, then again from γⁱ η₀ over growthⁱ · `steps`, without end.

    At the fraction s of cycle i, η = end + (pᵢ − end)(1 + cos π s)/2, with the peak
    pᵢ = max(γⁱ η₀, min(η₀, end)) and γ = `factor`. The step of a restart has the new peak.
    Optax: `optax.sgdr_schedule`, from a list of cycles.

    >>> s = cosine_restarts(1.0, 10, growth=2)
    >>> [round(float(s(t)), 4) for t in (0, 5, 10, 20, 30)]
    [1.0, 0.5, 1.0, 0.5, 1.0]

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
    """
    of = "cosine_restarts"
    validation.number("init", init, of, least=0)
    validation.number("end", end, of, least=0)
    validation.integer("steps", steps, of)
    validation.integer("growth", growth, of)
    validation.number("factor", factor, of, above=0, most=1)
    # Integer arithmetic: a cycle computed by a logarithm may be off by one at a restart.
    starts, size = [0], steps
    while growth > 1 and starts[-1] + size <= LAST:
        starts.append(starts[-1] + size)
        size *= growth

    def schedule(count: Any) -> jax.Array:
        t = step_of(count)
        if growth == 1:
            cycle, since, size = t // steps, t % steps, real(steps)
        else:
            table = jnp.asarray(starts, jnp.int32)
            cycle = jnp.sum(t[..., None] >= table, axis=-1) - 1
            since = t - jnp.take(table, cycle)
            sizes = [float(steps) * growth**i for i in range(len(starts))]
            size = jnp.take(real(jnp.asarray(sizes, jnp.result_type(float))), cycle)
        peak = jnp.maximum(init * real(factor) ** real(cycle), min(end, init))
        return _cosine(peak, end, ratio(since, size))

    return schedule
