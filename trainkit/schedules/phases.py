"""Schedules with phases: warm-up, WSD, one cycle; joined and scaled schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from trainkit._core import validation
from trainkit.schedules.decay import _cosine
from trainkit.schedules.steps import (
    LAST,
    Schedule,
    as_schedule,
    boundaries_of,
    fraction,
    ratio,
    real,
    step_of,
)


def warmup(schedule: Schedule | float, steps: int, *, init: float = 0.0) -> Schedule:
    """Linear warm-up from `init` to the schedule's first value over `steps`, then the schedule.

    η(t) = init + (s(0) − init) t/n for t < n = `steps`, then s(t − n). The peak is reached at step
    n, and the schedule keeps its full length. `steps=0` means no warm-up.

    >>> from trainkit.schedules import constant
    >>> s = warmup(constant(1.0), 4)
    >>> [float(s(t)) for t in (0, 2, 4, 100)]
    [0.0, 0.5, 1.0, 1.0]

    Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017.
    """
    after = as_schedule("warmup", schedule)
    validation.integer("steps", steps, "warmup", least=0)
    validation.number("init", init, "warmup", least=0)
    if steps == 0:
        return after

    def warmed(count: Any, **runtime: Any) -> jax.Array:
        t = step_of(count)
        peak = after(jnp.zeros_like(t), **runtime)
        rising = init + (peak - init) * fraction(t, steps)
        return jnp.where(t < steps, rising, after(jnp.maximum(t - steps, 0), **runtime))

    return _with_runtime(warmed, getattr(after, "runtime", {}))


def wsd(
    peak: float,
    *,
    warmup: int = 0,
    decay: int,
    decay_start: int | None = None,
    init: float = 0.0,
    end: float = 0.0,
    shape: Literal["linear", "sqrt", "cosine"] = "linear",
) -> Schedule:
    """Warmup, stable, decay: rises over `warmup` steps, is constant, falls over `decay` steps.

    η(t) = init + (peak − init) t/warmup, and after warm-up end + (peak − end) f(s), with
    s = (t − decay_start)/decay clipped to [0, 1], and f(s) = 1 − s (linear), 1 − √s (sqrt, best in
    Hägele et al.) or (1 + cos π s)/2 (cosine).

    **The start of the decay can be changed during a run.** `schedule(t, decay_start=n)` takes it at
    run time, traced or not. With `named` or `inject` it is part of the state, so that
    `set(state, "decay_start", n)` starts the decay at n without recompiling. A run can be extended
    by increasing n before step n. `decay_start=None` means that there is no decay yet.

    Raises:
      ValueError: negative or non-finite values, a decay of length 0, or a decay that starts before
        the end of the warm-up.

    >>> s = wsd(1.0, warmup=10, decay=10, decay_start=50)
    >>> [round(float(s(t)), 4) for t in (0, 5, 10, 50, 55, 60)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    >>> print(s(55, decay_start=1000))
    1.0

    Hu et al., MiniCPM, 2024; Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations, 2024.
    """
    for name, value in (("peak", peak), ("init", init), ("end", end)):
        validation.number(name, value, "wsd", least=0)
    validation.integer("warmup", warmup, "wsd", least=0)
    validation.integer("decay", decay, "wsd")
    validation.choice("shape", shape, _FALLS, "wsd")
    if decay_start is not None:
        validation.integer("decay_start", decay_start, "wsd", least=0)
        if decay_start < warmup:
            raise ValueError(
                f"wsd: boundaries out of order: decay_start {decay_start} is before the warm-up's "
                f"end at {warmup}."
            )
    first = LAST if decay_start is None else decay_start

    def schedule(count: Any, decay_start: Any = first) -> jax.Array:
        t = step_of(count)
        start = step_of(LAST if decay_start is None else decay_start)
        # Test t ≥ start first, because t − start could overflow int32 otherwise.
        done = jnp.where(t >= start, jnp.clip(t - jnp.minimum(start, t), 0, decay), 0)
        falling = end + (peak - end) * _FALLS[shape](ratio(done, decay))
        if warmup == 0:
            return falling
        rising = init + (peak - init) * fraction(t, warmup)
        early = jnp.where(t < start, rising, jnp.minimum(rising, falling))
        return jnp.where(t < warmup, early, falling)

    return _with_runtime(schedule, {"decay_start": first})


# The remaining fraction of the decay, as a function of the elapsed fraction.
_FALLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda s: 1 - s,
    "sqrt": lambda s: 1 - jnp.sqrt(s),
    "cosine": lambda s: _cosine(1.0, 0.0, s),
}


def one_cycle(
    peak: float,
    steps: int,
    *,
    warmup_fraction: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
    shape: Literal["cosine", "linear"] = "cosine",
) -> Schedule:
    """One cycle: from peak/div up to the peak over the first fraction, then down to the end.

    The final value at `steps` is peak/(div · final_div). Both phases are cosine or linear. Optax:
    `optax.cosine_onecycle_schedule`, `optax.linear_onecycle_schedule`.

    >>> s = one_cycle(1.0, 100, div=10.0)
    >>> [round(float(s(t)), 4) for t in (0, 30, 100)]
    [0.1, 1.0, 0.0]

    Smith and Topin, Super-Convergence, 2018.
    """
    of = "one_cycle"
    validation.number("peak", peak, of, least=0)
    validation.integer("steps", steps, of)
    for name, number in (("div", div), ("final_div", final_div)):
        validation.number(name, number, of, above=0)
    validation.number("warmup_fraction", warmup_fraction, of, least=0, most=1)
    validation.choice("shape", shape, ("cosine", "linear"), of)
    top = round(warmup_fraction * steps)
    low, last = peak / div, peak / div / final_div

    def between(a: float, b: float, s: jax.Array) -> jax.Array:
        return _cosine(a, b, s) if shape == "cosine" else a + (b - a) * s

    def schedule(count: Any) -> jax.Array:
        t = step_of(count)
        falling = between(peak, last, fraction(t, max(steps - top, 1), top))
        if top == 0:
            return falling
        return jnp.where(t <= top, between(low, peak, fraction(t, top)), falling)

    return schedule


def join(schedules: Sequence[Schedule | float], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another: `schedules[i]` starts at boundaries[i−1], with its step 0.

    Each schedule is evaluated only at its own steps. Optax: `optax.join_schedules`.

    Raises:
      ValueError: boundaries out of order, or not one fewer than the schedules.

    >>> from trainkit.schedules import cosine, linear
    >>> s = join([linear(0.0, 1.0, 10), cosine(1.0, 90)], [10])
    >>> [round(float(s(t)), 4) for t in (5, 10, 100)]
    [0.5, 1.0, 0.0]
    """
    validation.listed("schedules", schedules, "[linear(0.0, 1.0, 10), cosine(1.0, 90)]", "join")
    parts = [as_schedule("join", s, f"schedules[{i}]") for i, s in enumerate(schedules)]
    edges = boundaries_of(boundaries, "join")
    if not parts:
        raise ValueError("join needs at least one schedule.")
    if len(edges) != len(parts) - 1:
        raise ValueError(
            f"join: {len(parts)} schedules need {len(parts) - 1} boundaries, not {len(edges)}."
        )
    starts, ends = [0, *edges], [*edges, LAST]
    runtime: dict[str, Any] = {}
    for part in parts:
        runtime |= getattr(part, "runtime", {})

    def joined(count: Any, **given: Any) -> jax.Array:
        t = step_of(count)
        out = real(t) * 0
        for part, start, end in zip(parts, starts, ends, strict=True):
            own = {k: v for k, v in given.items() if k in getattr(part, "runtime", {})}
            local = part(jnp.clip(t, start, end) - start, **own)
            out = jnp.where(t >= start, real(local), out)
        return out

    return _with_runtime(joined, runtime)


def scale(schedule: Schedule | float, factor: Schedule | float) -> Schedule:
    """η(t) = factor(t) · s(t); the factor is a number or a schedule.

    >>> from trainkit.schedules import linear
    >>> print(scale(linear(1.0, 0.0, 10), 0.1)(5))
    0.05
    """
    first, second = as_schedule("scale", schedule), as_schedule("scale", factor, "factor")

    def scaled(count: Any, **given: Any) -> jax.Array:
        one, two = (
            part(count, **{k: v for k, v in given.items() if k in getattr(part, "runtime", {})})
            for part in (first, second)
        )
        return real(one) * real(two)

    return _with_runtime(
        scaled, {**getattr(first, "runtime", {}), **getattr(second, "runtime", {})}
    )


def _with_runtime(schedule: Any, runtime: dict[str, Any]) -> Schedule:
    """Declares the parameters of a schedule that can be set at run time, with initial values."""
    schedule.runtime = dict(runtime)
    return schedule
