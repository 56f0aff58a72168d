"""Rules that find their own step size, in plain NumPy, written from their papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainkit.laws.oracles.norms import global_norm
from trainkit.laws.oracles.pieces import Leaves, Start, Step, gone, leafwise, together, value_at


def dot(xs: Leaves, ys: Leaves) -> Any:
    return sum(np.sum(x * y) for x, y in zip(xs, ys, strict=True))


def away(ps: Leaves, p0: Leaves) -> list[Any]:
    return [p - q for p, q in zip(ps, p0, strict=True)]


def dog(first: tuple[str, float], eps: float) -> Start:
    """DoG (Ivgi 2023, arXiv 2302.12022): the largest distance from x₀, over the root of Σ ‖g‖²."""
    kind, value = first
    guess = lambda p0: {"distance": value, "heuristic": value * (1 + global_norm(p0))}.get(
        kind, 0.0
    )

    @together(lambda p0: (p0, guess(p0), 0.0))
    def step(
        gs: Leaves, ps: Leaves, t: int, p0: Leaves, reach: float, power: float, **_: Any
    ) -> Any:
        reach = max(reach, global_norm(away(ps, p0)))
        power += global_norm(gs) ** 2
        rate = value if kind == "learning_rate" and t == 1 else reach / float(np.sqrt(power + eps))
        return [rate * g for g in gs], p0, reach, power

    return step


def dowg(first: float | None, eps: float) -> Start:
    """DoWG (Khaled 2023, arXiv 2305.16284, algorithm 1): r̄² over the root of Σ r̄² ‖g‖²."""

    @together(lambda p0: (p0, eps if first is None else first, 0.0))
    def step(
        gs: Leaves, ps: Leaves, t: int, p0: Leaves, reach: float, power: float, **_: Any
    ) -> Any:
        reach = max(reach, global_norm(away(ps, p0)) ** 2)
        power += reach * global_norm(gs) ** 2
        rate = reach / (float(np.sqrt(power)) + eps)
        return [rate * g for g in gs], p0, reach, power

    return step


def distance_over_gradients(relative: float, eps: float, factor: float) -> Start:
    """LDoG: DoG leaf by leaf."""

    def leaf(p0: Any) -> Callable[..., Any]:
        piece = dog(("heuristic", relative), eps)([p0])
        return lambda g, p, t: factor * piece([g], [p], t)[0]

    return leafwise(leaf)


def cocob(alpha: float, eps: float) -> Start:
    """COCOB-Backprop (Orabona & Tommasi 2017, arXiv 1705.07795, algorithm 2): betting coins."""

    def leaf(p0: Any) -> Callable[..., Any]:
        largest = np.full_like(p0, eps)
        total, summed, reward = (np.zeros_like(p0) for _ in range(3))

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal largest, total, summed, reward
            largest = np.maximum(largest, np.abs(g))
            total = total + np.abs(g)
            reward = np.maximum(reward - (p - p0) * g, 0)
            summed = summed - g
            stake = summed / (largest * np.maximum(total + largest, alpha * largest))
            return p0 + stake * (largest + reward) - p

        return step

    return leafwise(leaf)


def _corrected(b1: float, b2: float, t: int, like: Any) -> Any:
    return gone(b2, t, like) ** 0.5 / gone(b1, t, like)


def dadapt_adamw(
    rate: Any, betas: tuple[float, float], eps: float, first: float, decay: float,
    optax: bool = False,
) -> Start:  # fmt: skip
    """Adam with D-Adaptation (Defazio & Mishchenko 2023, arXiv 2301.07733, algorithm 5).

    ⟨g_k, s_k⟩ is taken in the norm of A_{k+1} = diag(√v_{k+1} + ε), which has this gradient in it.
    `optax`: of A_k, as in the authors' code too, and with Adam's bias corrections, which the code
    has as an option.
    """
    b1, b2 = betas
    b = b2**0.5

    def step(a: Averages, k: Any, gs: Leaves, ps: Leaves, p0: Leaves) -> list[Any]:
        before = a.v
        a.m = [b1 * x + (1 - b1) * k * g for x, g in zip(a.m, gs, strict=True)]
        a.v = [b2 * x + (1 - b2) * g * g for x, g in zip(a.v, gs, strict=True)]
        norm = before if optax else a.v
        gain = dot(gs, [y / (np.sqrt(x) + eps) for x, y in zip(norm, a.s, strict=True)])
        a.s = [b * x + (1 - b) * k * g for x, g in zip(a.s, gs, strict=True)]
        a.r = b * a.r + (1 - b) * k * gain
        a.d = np.maximum(a.d, a.r / ((1 - b) * _size(a.s)))  # 0/0 is NaN: the paper is silent
        return [-x / (np.sqrt(y) + eps) - decay * k * p
                for x, y, p in zip(a.m, a.v, ps, strict=True)]  # fmt: skip

    return _estimating(rate, betas if optax else None, first, step)


@dataclass
class Averages:
    """Of gradients, of their squares and of steps; the distance d, and what it is estimated by."""

    m: list[Any]
    v: list[Any]
    s: list[Any]
    d: Any
    r: Any


def _estimating(
    rate: Any, betas: tuple[float, float] | None, first: float, one: Callable[..., list[Any]]
) -> Start:
    """A rule whose steps k = d η follow an estimate d of the distance to go.

    With `betas` they are bias-corrected.
    """

    def start(p0: Leaves) -> Step:
        zeros = lambda: [np.zeros_like(p) for p in p0]
        a = Averages(zeros(), zeros(), zeros(), _zero(p0) + first, _zero(p0))

        def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> list[Any]:
            k = a.d * value_at(rate, t) * (_corrected(*betas, t, p0[0]) if betas else 1.0)
            return one(a, k, gs, ps, p0)

        return step

    return start


def _size(xs: Leaves) -> Any:
    """Σ|x|."""
    return sum(np.sum(np.abs(x)) for x in xs)


def _zero(p0: Leaves) -> Any:
    """A scalar in the leaves' precision, so that a float32 run rounds the scalars as well."""
    return np.asarray(p0[0]).dtype.type(0)


def prodigy(
    rate: Any, betas: tuple[float, float], b3: float | None, eps: float, first: float,
    factor: float, decay: float, safeguard: bool, optax: bool = False,
) -> Start:  # fmt: skip
    """Prodigy (Mishchenko & Defazio 2023, arXiv 2306.06101, algorithm 4): weights d², ⟨g, x₀ − x⟩.

    r and s are the paper's over (1 − β₃) d₀, which is in both. `optax`: with Adam's bias
    corrections, which the authors' code has as an option, and ε times the new d, as it has it.
    """
    b1, b2 = betas
    b = b2**0.5 if b3 is None else b3

    def step(a: Averages, k: Any, gs: Leaves, ps: Leaves, p0: Leaves) -> list[Any]:
        d = a.d
        a.m = [b1 * x + (1 - b1) * d * g for x, g in zip(a.m, gs, strict=True)]
        a.v = [b2 * x + (1 - b2) * (d * g) ** 2 for x, g in zip(a.v, gs, strict=True)]
        weight = (d if safeguard else k) * d / first
        a.s = [b * x + weight * g for x, g in zip(a.s, gs, strict=True)]
        a.r = b * a.r - d / first * k * dot(gs, away(ps, p0))
        a.d = np.maximum(d, factor * a.r / _size(a.s))
        # NaN where the new d is 0/0, of which the paper says nothing.
        floor = (a.d if optax else d + 0 * a.d) * eps
        return [-k * x / (np.sqrt(y) + floor) - decay * k * p
                for x, y, p in zip(a.m, a.v, ps, strict=True)]  # fmt: skip

    return _estimating(rate, betas if optax else None, first, step)


def momo(
    rate: Any, beta: float, low: float, decay: float, adapts: bool, optax: bool = False
) -> Start:
    """MoMo (Schaipp 2023, arXiv 2305.07583, algorithm 1): momentum, with a step no longer than its
    model of the loss allows."""
    return _momo(rate, low, decay, adapts, beta, optax=optax)


def momo_adam(
    rate: Any, b1: float, b2: float, eps: float, low: float, decay: float, adapts: bool,
    optax: bool = False,
) -> Start:  # fmt: skip
    """MoMo-Adam (Schaipp 2023, algorithm 2): the same in Adam's norm, and bias-corrected."""
    return _momo(rate, low, decay, adapts, b1, (b2, eps), optax)


def _momo(
    rate: Any, low: float, decay: float, adapts: bool, beta: float,
    adam: tuple[float, float] | None = None, optax: bool = False,
) -> Start:  # fmt: skip
    """d averages gradients, f̄ losses and γ the products ⟨g, x⟩.

    τ = min(α / ρ, ((1 + α λ) (f̄ − ρ f* − γ) + ⟨d, x⟩)₊ / ‖d‖²), with ρ = 1 − βᵗ, and the norm that
    of Adam's D; without Adam the averages begin at their first value, and ρ is 1. The step is
    proximal, x ← (x − τ D⁻¹ d) / (1 + α λ); `optax`: x / (1 + α λ) − τ D⁻¹ d.
    """

    def start(p0: Leaves) -> Step:
        d, v = ([np.zeros_like(p) for p in p0] for _ in range(2))
        loss, gamma, bound = _zero(p0), _zero(p0), _zero(p0) + low

        def step(gs: Leaves, ps: Leaves, t: int, *, value: Any = 1.0, **_: Any) -> list[Any]:
            nonlocal d, v, loss, gamma, bound
            b = 0.0 if adam is None and t == 1 else beta
            rho = 1.0 if adam is None else gone(beta, t, p0[0])
            d = [b * x + (1 - b) * g for x, g in zip(d, gs, strict=True)]
            loss = b * loss + (1 - b) * (_zero(p0) + float(value))
            gamma = b * gamma + (1 - b) * dot(gs, ps)
            scale: Leaves = [1.0] * len(d)
            if adam is not None:
                b2, eps = adam
                v = [b2 * x + (1 - b2) * g * g for x, g in zip(v, gs, strict=True)]
                scale = [eps + np.sqrt(x / gone(b2, t, x)) for x in v]
            power = dot(d, [x / y for x, y in zip(d, scale, strict=True)])
            inner, alpha = dot(d, ps), value_at(rate, t)
            shrink = 1 + alpha * decay
            cap = shrink * (loss - gamma) + inner
            if adapts and cap < shrink * rho * bound:
                bound = max(cap / (2 * rho * shrink), low)
            room = max(cap - shrink * rho * bound, 0.0)
            tau = min(alpha / rho, 0.0 if power <= np.finfo(np.float64).eps else room / power)
            if adapts:
                bound = max((loss + inner - gamma - tau * power / 2) / rho, low)
            moved = tau if optax else tau / shrink
            return [-(alpha * decay / shrink) * p - moved * x / y
                    for x, y, p in zip(d, scale, ps, strict=True)]  # fmt: skip

        return step

    return start
