"""Rules that use curvature, in plain NumPy: Newton, L-BFGS, PSGD, and a search along a line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.oracles.pieces import Leaves, Start, gone, leafwise, together


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


def kron(
    rate: float, every: int, beta: float, largest: int, draw: Callable[[int, tuple[int, ...]], Any]
) -> Start:
    """PSGD's Kronecker factors, fitted to whiten gradients, and P m of the averaged gradient.

    c(P) = E[gᵀ P g + vᵀ P⁻¹ v] (Li 2015, arXiv 1512.04202, with the gradient for its pairs of
    perturbations), P = QᵀQ, Q = Q₁ ⊗ Q₂ with triangular or diagonal factors, each moved along its
    group, and by a step that is normalised (Li 2024, arXiv 2402.11858; Pooladzandi & Li 2024, arXiv
    2402.04553). Here Q is one dense matrix. draw: of the step and the shape, v. The lines are those
    of the authors' program (github.com/lixilinx/psgd_torch: psgd.py, and table II of its README),
    without its average of the norms; the numbers of the papers' equations were not to be seen.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        shape = np.shape(p0) or (1,)
        whole = [len(shape) > 1 and n <= largest for n in shape]
        factors = [np.eye(n, dtype=p0.dtype) for n in shape]
        m = np.zeros_like(p0)

        def fit(g: Any, v: Any) -> None:
            q = functools.reduce(np.kron, factors)
            # update_precond_kron_eq: A = Q₁ G Q₂ᵀ, B = Q₁⁻ᵀ V Q₂⁻¹
            a = (q @ g.ravel()).reshape(shape)
            b = np.linalg.solve(q.T, v.ravel()).reshape(shape)
            for i in range(len(shape)):
                rest = [j for j in range(len(shape)) if j != i]
                ours, theirs = (np.tensordot(x, x, (rest, rest)) for x in (a, b))
                if whole[i]:
                    both = ours + theirs
                    # norm_lower_bound, of its preconditioned_stochastic_gradient_descent.py
                    column = both[:, np.argmax(np.linalg.norm(both, axis=0))]
                    column = both @ column
                    size = np.linalg.norm(both @ column) / np.linalg.norm(column)  # ≤ ‖A Aᵀ + B Bᵀ‖
                    slope = np.triu(ours - theirs)  # ∇ = triu(A Aᵀ − B Bᵀ)
                else:
                    slope = np.diag(np.diag(ours - theirs))
                    size = np.max(np.diag(ours + theirs))
                factors[i] = factors[i] - rate * slope @ factors[i] / size

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m, factors
            m = beta * m + (1 - beta) * g
            if not p0.size:
                return m
            if t == 1 and np.any(g):
                scale = np.mean(np.square(g)) ** (-1 / (4 * len(shape)))
                factors = [scale * q for q in factors]
            if (t - 1) % every == 0:
                fit(np.reshape(g, shape), np.asarray(draw(t - 1, shape), p0.dtype))
            q = functools.reduce(np.kron, factors)
            return (q.T @ (q @ m.ravel())).reshape(np.shape(p0)) / gone(
                beta, t, g
            )  # precond_grad_kron

        return step

    return leafwise(leaf)
