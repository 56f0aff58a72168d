"""Schedules in plain NumPy float64, written from their definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Value = Callable[[int], float]


def polynomial(init: float, end: float, power: float, steps: int, begin: int = 0) -> Value:
    """From `init` to `end` over `steps`, from count `begin`; constant where steps ≤ 0."""
    if steps <= 0:
        return lambda t: init
    begin = max(begin, 0)
    return lambda t: end + (init - end) * (1 - min(max(t - begin, 0), steps) / steps) ** power


def piecewise_constant(init: float, scales: Mapping[int, float] | None) -> Value:
    """`init`, times every factor whose boundary has been reached (at it, not after it)."""
    return lambda t: init * float(np.prod([f for b, f in (scales or {}).items() if t >= b]))


def exponential(
    init: float, steps: int, rate: float, begin: int, staircase: bool, end: float | None
) -> Value:
    """init · rate^((t − begin) / steps), bounded by `end`."""
    if steps <= 0 or rate == 0:
        return lambda t: init
    begin = max(begin, 0)

    def value(t: int) -> float:
        p = (t - begin) / steps
        with np.errstate(over="ignore", under="ignore"):
            v = init if t <= begin else init * np.float64(rate) ** (np.floor(p) if staircase else p)
        if end is None:
            return float(v)
        return float(max(v, end) if rate < 1 else min(v, end))

    return value


def cosine(init: float, steps: float, alpha: float, exponent: float) -> Value:
    """Loshchilov & Hutter 2017, without restarts."""

    def value(t: int) -> float:
        c = (1 + np.cos(np.pi * min(t, steps) / steps)) / 2
        return float(init * ((1 - alpha) * c**exponent + alpha))

    return value


def foreign(schedule: Callable[[Any], Any]) -> Value:
    """A schedule that was given as an argument, in float64 and beyond int32 as well."""

    def value(t: int) -> float:
        with jax.enable_x64(True):
            return float(schedule(t))

    return value


def join(parts: list[Any], boundaries: list[int]) -> Value:
    """The last part whose boundary has been reached, counted from its boundary."""

    def value(t: int) -> float:
        which = sum(t >= b for b in boundaries)
        return float(parts[which](t - boundaries[which - 1] if which else t))

    return value


def interpolate(kind: str, init: float, scales: Mapping[int, float] | None) -> Value:
    """Between the values that `piecewise_constant` takes, a line or half a cosine."""
    points = sorted((scales or {}).items())
    xs, ys = [0], [init]
    for b, f in points:
        xs.append(b)
        ys.append(ys[-1] * f)

    def value(t: int) -> float:
        for i in range(len(points)):
            if xs[i] <= t < xs[i + 1]:
                s = (t - xs[i]) / (xs[i + 1] - xs[i])
                s = s if kind == "linear" else (1 - np.cos(np.pi * s)) / 2
                return float(ys[i] + (ys[i + 1] - ys[i]) * s)
        return float(ys[-1])

    return value


def _warmup_cosine(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Value:
    alpha = end_value / peak_value if peak_value else 0.0
    return join(
        [
            polynomial(init_value, peak_value, 1, warmup_steps),
            cosine(peak_value, decay_steps - warmup_steps, alpha, exponent),
        ],
        [warmup_steps],
    )


def _sgdr(cosine_kwargs: Any) -> Value:
    cycles = [dict(c) for c in cosine_kwargs]
    ends = np.cumsum([c["decay_steps"] for c in cycles])
    return join([_warmup_cosine(**c) for c in cycles], [int(e) for e in ends[:-1]])


def _onecycle(kind: str) -> Callable[..., Value]:
    def build(h: Mapping[str, Any]) -> Value:
        n, peak = h["transition_steps"], h["peak_value"]
        up, down = h["div_factor"], h["final_div_factor"]
        turns = {int(h["pct_start"] * n): up}
        if kind == "linear":
            turns |= {int(h["pct_final"] * n): 1 / up, n: 1 / down}
        else:
            turns |= {n: 1 / (up * down)}
        return interpolate(kind, peak / up, turns)

    return build


def _horizon(h: Mapping[str, Any]) -> list[int]:
    """The counts at which something happens, so that the tests look there."""
    at = [int(h.get("transition_begin") or 0)]
    for key in ("transition_steps", "decay_steps", "warmup_steps"):
        if isinstance(h.get(key), int | float):
            at += [int(h[key]), int(h[key]) + at[0], int(h[key]) + int(h.get("warmup_steps") or 0)]
    for key in ("pct_start", "pct_final"):
        if key in h:
            at.append(int(h[key] * h["transition_steps"]))
    at += [int(b) for b in (h.get("boundaries_and_scales") or {})]
    at += [int(b) for b in h.get("boundaries", ())]
    total = 0
    for cycle in h.get("cosine_kwargs") or ():
        at += [total, total + int(cycle["warmup_steps"]), total + int(cycle["decay_steps"])]
        total += int(cycle["decay_steps"])
    return sorted({b for b in at if b >= 0})


SCHEDULES: dict[str, Callable[[Mapping[str, Any]], Value]] = {
    "constant_schedule": lambda h: lambda t: float(h["value"]),
    "polynomial_schedule": lambda h: polynomial(
        h["init_value"], h["end_value"], h["power"], h["transition_steps"], h["transition_begin"]),
    "linear_schedule": lambda h: polynomial(
        h["init_value"], h["end_value"], 1, h["transition_steps"], h["transition_begin"]),
    "piecewise_constant_schedule": lambda h: piecewise_constant(
        h["init_value"], h["boundaries_and_scales"]),
    "piecewise_interpolate_schedule": lambda h: interpolate(
        h["interpolate_type"], h["init_value"], h["boundaries_and_scales"]),
    "exponential_decay": lambda h: exponential(
        h["init_value"], h["transition_steps"], h["decay_rate"], h["transition_begin"],
        h["staircase"], h["end_value"]),
    "cosine_decay_schedule": lambda h: cosine(
        h["init_value"], h["decay_steps"], h["alpha"], h["exponent"]),
    "linear_onecycle_schedule": _onecycle("linear"),
    "cosine_onecycle_schedule": _onecycle("cosine"),
    "warmup_constant_schedule": lambda h: polynomial(
        h["init_value"], h["peak_value"], 1, h["warmup_steps"]),
    "warmup_cosine_decay_schedule": lambda h: _warmup_cosine(**h),
    "warmup_exponential_decay_schedule": lambda h: join(
        [polynomial(h["init_value"], h["peak_value"], 1, h["warmup_steps"]),
         exponential(h["peak_value"], h["transition_steps"], h["decay_rate"],
                     h["transition_begin"], h["staircase"], h["end_value"])],
        [h["warmup_steps"]]),
    "sgdr_schedule": lambda h: _sgdr(h["cosine_kwargs"]),
    "join_schedules": lambda h: join(
        [foreign(s) for s in h["schedules"]], [int(b) for b in h["boundaries"]]),
}  # fmt: skip


def boundaries(name: str | None, hyperparams: Mapping[str, Any]) -> list[int]:
    """Counts at which the schedule `name` changes its form."""
    return _horizon(hyperparams) if name else []
