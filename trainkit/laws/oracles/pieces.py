"""What update rules are put together from, in plain NumPy that shares no code with Optax.

A piece is `start(params) -> step`, and `step(gradients, params, t) -> updates` keeps its own state
in closures. `t` counts from 1; trees are lists of arrays. Everything runs in the arrays' own dtype,
so a float32 run of the same code says how much of a difference is only rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Leaves = Sequence[Any]
Step = Callable[..., list[Any]]
Start = Callable[[Leaves], Step]


def gone(beta: float, t: int, like: Any) -> Any:
    """1 − βᵗ in the leaf's own precision: in float32 it loses 1.3e-5 of itself at β = .999."""
    kind = np.asarray(like).dtype.type
    return kind(1) - kind(beta) ** t


def leafwise(start_leaf: Callable[[Any], Callable[..., Any]]) -> Start:
    """A piece that treats every leaf by itself: `start_leaf(p) -> step_leaf(g, p, t)`."""

    def start(params: Leaves) -> Step:
        steps = [start_leaf(p) for p in params]
        return lambda gs, ps, t, **_: [s(g, p, t) for s, g, p in zip(steps, gs, ps, strict=True)]

    return start


def stateless(f: Callable[[Any, Any], Any]) -> Start:
    return leafwise(lambda p0: lambda g, p, t: f(g, p))


def chain(*pieces: Start) -> Start:
    def start(params: Leaves) -> Step:
        steps = [piece(params) for piece in pieces]

        def step(gs: Leaves, ps: Leaves, t: int, **extra: Any) -> list[Any]:
            for s in steps:
                gs = s(gs, ps, t, **extra)
            return list(gs)

        return step

    return start


def masked(piece: Start, mask: Sequence[bool] | None) -> Start:
    """`piece` on the leaves where `mask` is true, the identity elsewhere."""
    if mask is None:
        return piece

    def start(params: Leaves) -> Step:
        chosen = [i for i, m in enumerate(mask) if m]
        inner = piece([params[i] for i in chosen])

        def step(gs: Leaves, ps: Leaves, t: int, **extra: Any) -> list[Any]:
            out = list(gs)
            new = inner([gs[i] for i in chosen], [ps[i] for i in chosen], t, **extra)
            for i, u in zip(chosen, new, strict=True):
                out[i] = u
            return out

        return step

    return start


def value_at(rate: Any, t: int) -> float:
    """A constant, or a schedule at the count of the t-th update (the first update has count 0)."""
    return float(rate(t - 1)) if callable(rate) else float(rate)


def scale(rate: Any, sign: float = 1.0) -> Start:
    return leafwise(lambda p0: lambda g, p, t: (sign * value_at(rate, t)) * g)


def learning_rate(rate: Any) -> Start:
    return scale(rate, -1.0)


def decay(rate: Any, mask: Sequence[bool] | None = None) -> Start:
    """g + λ p (Krogh & Hertz 1991; decoupled where it comes after the rule, Loshchilov 2019)."""
    return masked(leafwise(lambda p0: lambda g, p, t: g + value_at(rate, t) * p), mask)


def trace(beta: float, nesterov: bool = False) -> Start:
    """Heavy ball v ← β v + g (Polyak 1964); Nesterov's variant steps along g + β v."""

    def leaf(p0: Any) -> Callable[..., Any]:
        v = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal v
            v = beta * v + g
            return g + beta * v if nesterov else v

        return step

    return leafwise(leaf)


def ema(beta: float, debias: bool) -> Start:
    def leaf(p0: Any) -> Callable[..., Any]:
        m = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m
            m = beta * m + (1 - beta) * g
            return m / gone(beta, t, p0) if debias else m

        return step

    return leafwise(leaf)


def optimistic(alpha: float, beta: float) -> Start:
    """Optimistic gradient (Mokhtari 2020): (α + β) g_t − β g_{t−1}, with g_0 = g_1."""

    def leaf(p0: Any) -> Callable[..., Any]:
        last = None

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal last
            previous = g if last is None else last
            last = g
            return (alpha + beta) * g - beta * previous

        return step

    return leafwise(leaf)


def accumulate(k: int) -> Start:
    """`apply_every`: the sum of k gradients on every k-th step, zero in between."""

    def leaf(p0: Any) -> Callable[..., Any]:
        total = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal total
            total = g if (t - 1) % k == 0 else total + g
            return total if t % k == 0 else np.zeros_like(total)

        return step

    return leafwise(leaf)
