"""What update rules are put together from, in plain NumPy that shares no code with Optax.

A piece is `start(params) -> step`, and `step(gradients, params, t) -> updates` keeps its own state
in closures. `t` counts from 1; trees are lists of arrays. Everything runs in the arrays' own dtype,
so a float32 run of the same code says how much of a difference is only rounding.

`recursion` makes a piece from the formula of one leaf, `together` from one of the whole tree.

A reference is its paper's rule; where Optax has another, see `deviations`. An argument of Optax's
that the paper has not, such as an ε against a division by 0, does what it does in Optax: with the
value at which it does nothing the reference is the paper's.
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


def together(memory: Callable[[Leaves], tuple[Any, ...]]) -> Callable[[Callable[..., Any]], Start]:
    """A piece from `step(gs, ps, t, *memory, **extra) -> (updates, *memory)`.

    `memory(params)` is what it remembers before the first step.
    """

    def piece(formula: Callable[..., Any]) -> Start:
        def start(params: Leaves) -> Step:
            held = memory(params)

            def step(gs: Leaves, ps: Leaves, t: int, **extra: Any) -> list[Any]:
                nonlocal held
                updates, *held = formula(gs, ps, t, *held, **extra)
                return list(updates)

            return step

        return start

    return piece


def leafwise(start_leaf: Callable[[Any], Callable[..., Any]]) -> Start:
    """A piece that treats every leaf by itself: `start_leaf(p) -> step_leaf(g, p, t)`."""

    def start(params: Leaves) -> Step:
        steps = [start_leaf(p) for p in params]
        return lambda gs, ps, t, **_: [s(g, p, t) for s, g, p in zip(steps, gs, ps, strict=True)]

    return start


def recursion(*first: float) -> Callable[[Callable[..., Any]], Start]:
    """A piece from the formula of one leaf: `step(g, p, t, *memory) -> (update, *memory)`.

    The memory begins with arrays of these values, shaped as the leaf.
    """

    def piece(formula: Callable[..., Any]) -> Start:
        def leaf(p0: Any) -> Callable[..., Any]:
            held: list[Any] = [np.full_like(p0, x) for x in first]

            def step(g: Any, p: Any, t: int) -> Any:
                nonlocal held
                update, *held = formula(g, p, t, *held)
                return update

            return step

        return leafwise(leaf)

    return piece


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


def groups(rules: Sequence[Start | None], which: Sequence[int]) -> Start:
    """Each leaf by the rule of its group, every group as if it were alone; None: as it is."""

    def start(p0: Leaves) -> Step:
        members = [[i for i, k in enumerate(which) if k == j] for j in range(len(rules))]
        runs = [(m, r([p0[i] for i in m])) for r, m in zip(rules, members, strict=True) if r and m]

        def step(gs: Leaves, ps: Leaves, t: int, **extra: Any) -> list[Any]:
            out = list(gs)
            for m, run in runs:
                new = run([gs[i] for i in m], [ps[i] for i in m], t, **extra)
                for i, u in zip(m, new, strict=True):
                    out[i] = u
            return out

        return step

    return start


def masked(piece: Start, mask: Sequence[bool] | None) -> Start:
    """`piece` on the leaves where `mask` is true, the identity elsewhere."""
    return piece if mask is None else groups([None, piece], [int(bool(m)) for m in mask])


def value_at(rate: Any, t: int) -> float:
    """A constant, or a schedule at the count of the t-th update (the first update has count 0)."""
    return float(rate(t - 1)) if callable(rate) else float(rate)


def scale(rate: Any, sign: float = 1.0) -> Start:
    return leafwise(lambda p0: lambda g, p, t: (sign * value_at(rate, t)) * g)


def learning_rate(rate: Any) -> Start:
    return scale(rate, -1.0)


def decay(rate: Any, mask: Sequence[bool] | None = None) -> Start:
    """g + λ p (Krogh & Hertz 1991; decoupled where it comes after the rule, Loshchilov 2019).

    Decoupled, the paper's λ is not multiplied by α (arXiv 1711.05101, algorithm 2, line 12). A
    learning rate is the paper's η_t α, so that this λ is the paper's over α: the same rule.
    """
    return masked(leafwise(lambda p0: lambda g, p, t: g + value_at(rate, t) * p), mask)


def proximal_decay(rate: Any, decay: float, mask: Sequence[bool] | None = None) -> Start:
    """From a step u already scaled by −η: θ ← (θ + u) / (1 + λ η) (Xie 2022, algorithm 1)."""

    def leaf(p0: Any) -> Callable[..., Any]:
        return lambda u, p, t: (p + u) / (1 + decay * value_at(rate, t)) - p

    return masked(leafwise(leaf), mask)


def trace(beta: float, nesterov: bool = False) -> Start:
    """Heavy ball v ← β v + g (Polyak 1964); Nesterov's variant steps along g + β v."""

    @recursion(0.0)
    def step(g: Any, p: Any, t: int, v: Any) -> Any:
        v = beta * v + g
        return (g + beta * v if nesterov else v), v

    return step


def ema(beta: float, debias: bool) -> Start:
    @recursion(0.0)
    def step(g: Any, p: Any, t: int, m: Any) -> Any:
        m = beta * m + (1 - beta) * g
        return (m / gone(beta, t, g) if debias else m), m

    return step


def optimistic(alpha: float, beta: float) -> Start:
    """Optimistic gradient (Mokhtari 2020): (α + β) g_t − β g_{t−1}, with g_0 = g_1."""

    @recursion(0.0)
    def step(g: Any, p: Any, t: int, last: Any) -> Any:
        return (alpha + beta) * g - beta * (g if t == 1 else last), g

    return step


def accumulate(k: int) -> Start:
    """`apply_every`: the sum of k gradients on every k-th step, zero in between."""

    @recursion(0.0)
    def step(g: Any, p: Any, t: int, total: Any) -> Any:
        total = g if (t - 1) % k == 0 else total + g
        return (total if t % k == 0 else np.zeros_like(total)), total

    return step
