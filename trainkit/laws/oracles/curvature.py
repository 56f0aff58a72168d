"""Rules that use curvature, in plain NumPy: Newton, L-BFGS, and a search along a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.oracles.pieces import Leaves, Start, together


def _flat(xs: Leaves) -> Any:
    return np.concatenate([np.ravel(x) for x in xs])


def _like(flat: Any, xs: Leaves) -> list[Any]:
    ends = np.cumsum([np.size(x) for x in xs])[:-1]
    return [part.reshape(np.shape(x)) for part, x in zip(np.split(flat, ends), xs, strict=True)]


def newton(damping: float, matrix: Callable[[Any], Any]) -> Start:
    """(H + damping)⁻¹ g, where `matrix` gives H at the parameters laid side by side."""

    @together(lambda p0: ())
    def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> Any:
        h = matrix(_flat(ps))
        return (_like(np.linalg.solve(h + damping * np.eye(len(h)), _flat(gs)), gs),)

    return step


def lbfgs(memory: int, scaled: bool) -> Start:
    """The inverse Hessian of the last `memory` secant pairs, times the gradient (Nocedal 1980).

    Built as a matrix by H ← (1 − ρ s yᵀ) H (1 − ρ y sᵀ) + ρ s sᵀ from γ 1, and not by the recursion
    of two loops that programs use: γ = sᵀy / yᵀy of the newest pair. Optax leaves out a pair with
    sᵀy = 0, and its first step is the gradient made no longer than 1.
    """

    @together(lambda p0: ([], None))
    def step(gs: Leaves, ps: Leaves, t: int, pairs: Any, last: Any, **_: Any) -> Any:
        x, g = _flat(ps), _flat(gs)
        if last is not None:
            pairs = [*pairs, (x - last[0], g - last[1])][-memory:]
        gamma = x.dtype.type(1)
        if scaled and pairs:
            s, y = pairs[-1]
            gamma = (s @ y) / (y @ y) if y @ y > 0 else gamma
        elif scaled:
            length = np.linalg.norm(g)
            gamma = 1 / length if length > 1 else gamma
        one = np.eye(x.size, dtype=x.dtype)
        inverse = gamma * one
        for s, y in pairs:
            if s @ y != 0:
                cut = one - np.outer(y, s) / (s @ y)
                inverse = cut.T @ inverse @ cut + np.outer(s, s) / (s @ y)
        return _like(inverse @ g, gs), pairs, (x, g)

    return step


def backtracking(
    most: int, decrease: float, fewer: float, more: float, longest: float, atol: float, rtol: float
) -> Start:
    """The first of η, η·fewer, … with f(x + η u) ≤ (1 + rtol) f(x) + decrease η ⟨u, ∇f⟩ + atol.

    η begins at `more` times the last one, at most `longest` (Armijo 1966; Vaswani 2019). After
    `most` reductions the last is taken as it is, and none where the function has no value there.
    """

    @together(lambda p0: (np.asarray(p0[0]).dtype.type(1),))
    def step(
        gs: Leaves, ps: Leaves, t: int, rate: Any, *, value: Any = 0.0, value_fn: Any = None,
        grad: Any = None, **_: Any,
    ) -> Any:  # fmt: skip
        slope = float(_flat(gs) @ _flat(grad))
        rate = np.minimum(more * rate, longest)
        for tried in range(most + 1):
            rate = rate * fewer if tried else rate
            new = value_fn([p + rate * u for p, u in zip(ps, gs, strict=True)])
            gap = new - (1 + rtol) * value - rate * decrease * slope
            if gap <= atol:
                break
        if not np.isfinite(gap):
            rate = 0 * rate
        return [rate * u for u in gs], rate

    return step
