"""Adam and the rules that are Adam but for a line, in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.oracles.pieces import Leaves, Start, gone, recursion, together, value_at


def adam(
    b1: float,
    b2: float,
    eps: float,
    eps_root: float = 0.0,
    nesterov: bool = False,
    maximum: bool = False,
    correct: tuple[bool, bool] = (True, True),
    belief: bool = False,
    infinity: bool = False,
    rectify: float | None = None,
) -> Start:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1), and what differs from it in one line.

    infinity: AdaMax (the same, algorithm 2; its ε, which the paper has not, is beside |g|).
    nesterov: Nadam (Dozat 2016) with all μ_t = β₁: the paper leaves the sequence open,
    so that one which warms up, as PyTorch's does, is another choice of it and no other rule.
    maximum: AMSGrad (Reddi 2018, arXiv 1904.09237, algorithm 2), the largest v, and, as
    `correct=(False, False)` says, nothing corrected. belief: AdaBelief (Zhuang 2020, arXiv
    2010.07468, algorithm 2). rectify: RAdam (Liu 2020, arXiv 1908.03265, algorithm 2), with the ρ
    from which a step is rectified: above 4 in the paper, from 5 on in its authors' code.
    """
    rho_inf = 2 / (1 - b2) - 1

    @recursion(0.0, 0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any, top: Any) -> Any:
        m = b1 * m + (1 - b1) * g
        if infinity:
            v = np.maximum(b2 * v, np.abs(g) + eps)  # u_t = max(β₂ u_{t−1}, |g_t|)
            return (m / gone(b1, t, g)) / v, m, v, top
        if belief:
            v = b2 * v + (1 - b2) * (g - m) ** 2 + eps_root  # s_t, with the m of this step
        else:
            v = b2 * v + (1 - b2) * (g * g)
        m_hat = m / gone(b1, t, g) if correct[0] else m
        if nesterov:  # m̂ = μ_{t+1} m_t / (1 − ∏_{i≤t+1} μ_i) + (1 − μ_t) g_t / (1 − ∏_{i≤t} μ_i)
            m_hat = b1 * m / gone(b1, t + 1, g) + (1 - b1) * g / gone(b1, t, g)
        v_hat = v / gone(b2, t, g) if correct[1] else v
        if maximum:
            v_hat = top = np.maximum(top, v_hat)  # v̂_t = max(v̂_{t−1}, v_t)
        if rectify is not None:
            rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
            if rho < rectify or rho <= 4:
                return m_hat, m, v, top
            r = ((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)
            m_hat = float(np.sqrt(r)) * m_hat
        root = 0.0 if belief else eps_root
        return m_hat / (np.sqrt(v_hat + root) + eps), m, v, top

    return step


def yogi(
    b1: float, b2: float, eps: float, eps_root: float, initial: float, corrected: bool = False
) -> Start:
    """Yogi (Zaheer 2018, algorithm 2): v moves by g², towards it; nothing is bias-corrected.

    v begins at `initial`, which the paper's experiments take from a gradient. `corrected`: both
    moments are, and both begin there.
    """

    @recursion(initial if corrected else 0.0, initial)
    def step(g: Any, p: Any, t: int, m: Any, v: Any) -> Any:
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g * g) * (g * g)
        top, below = (m / gone(b1, t, g), v / gone(b2, t, g)) if corrected else (m, v)
        return top / (np.sqrt(below + eps_root) + eps), m, v

    return step


def adan(b1: float, b2: float, b3: float, eps: float, eps_root: float, mix: float) -> Start:
    """Adan (Xie 2022, arXiv 2208.06677, algorithm 1), with b for the paper's 1 − β.

    `mix` weighs the differences of gradients: the paper's 1 − β₂, which is b₂. Bias-corrected as
    its authors' code is. The decay of the algorithm, which divides, is `pieces.proximal_decay`.
    """

    @recursion(0.0, 0.0, 0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any, n: Any, last: Any) -> Any:
        change = np.zeros_like(g) if t == 1 else g - last
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * change
        n = b3 * n + (1 - b3) * (g + mix * change) ** 2
        top = m / gone(b1, t, g) + mix * v / gone(b2, t, g)
        return top / (np.sqrt(n / gone(b3, t, g) + eps_root) + eps), m, v, n, g

    return step


def lion(b1: float, b2: float) -> Start:
    """Lion (Chen 2023, arXiv 2302.06675, algorithm 2).

    The sign of one interpolation of m and g, the memory of another.
    """

    @recursion(0.0)
    def step(g: Any, p: Any, t: int, m: Any) -> Any:
        return np.sign(b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g

    return step


def novograd(b1: float, b2: float, eps: float, eps_root: float, wd: float) -> Start:
    """NovoGrad (Ginsburg 2019, arXiv 1905.11286, algorithm 1).

    One second moment a leaf, decay inside the momentum.
    """

    @recursion(0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any) -> Any:
        power = np.sum(g * g)
        v = power if t == 1 else b2 * v + (1 - b2) * power
        d = g / (np.sqrt(v + eps_root) + eps) + wd * p
        m = d if t == 1 else b1 * m + d
        return m, m, v

    return step


def acprop(b1: float, b2: float, eps: float, eps_root: float, before: bool = False) -> Start:
    """ACProp (Zhuang 2021, arXiv 2110.05454): g_t over the root of the second moment before it.

    The first step, which has none, divides by 1. `before`: what is squared is the distance from the
    average before this gradient, where the paper has the average after it.
    """

    @recursion(0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, s: Any) -> Any:
        power = np.ones_like(g) if t == 1 else s / gone(b2, t - 1, g)
        new = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - (m if before else new)) ** 2 + eps_root
        return g / (np.sqrt(power) + eps), new, s

    return step


def ademamix(b1: float, b2: float, b3: Any, alpha: Any, eps: float, eps_root: float) -> Start:
    """AdEMAMix (Pagliardini 2024, arXiv 2409.03137): a corrected fast average, and α of a slow one.

    The slow one is not corrected. β₃ and α may be schedules.
    """

    @recursion(0.0, 0.0, 0.0)
    def step(g: Any, p: Any, t: int, fast: Any, slow: Any, v: Any) -> Any:
        old = value_at(b3, t)
        fast = b1 * fast + (1 - b1) * g
        slow = old * slow + (1 - old) * g
        v = b2 * v + (1 - b2) * (g * g)
        top = fast / gone(b1, t, g) + value_at(alpha, t) * slow
        return top / (np.sqrt(v / gone(b2, t, g) + eps_root) + eps), fast, slow, v

    return step


def simplified_ademamix(b1: float, b2: float, alpha: Any, eps: float, eps_root: float) -> Start:
    """Simplified AdEMAMix (Morwani 2025, arXiv 2502.02431): m + α g over Adam's root."""

    @recursion(0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any) -> Any:
        m = b1 * m + g
        v = b2 * v + (1 - b2) * (g * g)
        root = np.sqrt(v / gone(b2, t, g) + eps_root)
        return (m + value_at(alpha, t) * g) / (root + eps), m, v

    return step


def adopt(b1: float, b2: float, eps: float, nesterov: bool, bound: Any) -> Start:
    """ADOPT (Taniguchi 2024, arXiv 2411.02853): g over the root of the moment before it, averaged.

    The first gradient only starts the second moment. `bound(t)` clips the ratio, or is None.
    """

    @recursion(0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any) -> Any:
        if t == 1:
            return np.zeros_like(g), m, g * g
        ratio = g / np.maximum(np.sqrt(v), eps)
        if bound is not None:
            limit = float(bound(float(t - 1)))
            ratio = np.clip(ratio, -limit, limit)
        m = b1 * m + (1 - b1) * ratio
        u = b1 * m + (1 - b1) * ratio if nesterov else m
        return u, m, b2 * v + (1 - b2) * (g * g)

    return step


def sophia(
    b1: float, b2: float, eps: float, gamma: float, bound: float | None, every: int,
    diagonal: Callable[[Leaves], Leaves], paper: bool = False,
) -> Start:  # fmt: skip
    """Sophia-H (Liu 2023, arXiv 2305.14342): the average over γ h, clipped; h averages the diagonal
    of the Hessian.

    `diagonal(params)` is that diagonal, where it is known: no random signs are needed. In the
    `paper` (algorithm 3) h is made anew before the step that divides by it, and the average is not
    bias-corrected; else a step divides by the h of the step before (0 at first), and it is.
    """

    @together(lambda p0: ([np.zeros_like(p) for p in p0], [np.zeros_like(p) for p in p0]))
    def step(gs: Leaves, ps: Leaves, t: int, m: Any, h: Any, **_: Any) -> Any:
        m = [b1 * x + (1 - b1) * g for x, g in zip(m, gs, strict=True)]
        new = h
        if (t - 1) % every == 0:
            new = [b2 * y + (1 - b2) * d for y, d in zip(h, diagonal(ps), strict=True)]
        corrected = m if paper else [x / gone(b1, t, x) for x in m]
        by = new if paper else h
        us = [x / np.maximum(gamma * y, eps) for x, y in zip(corrected, by, strict=True)]
        h = new
        return (us if bound is None else [np.clip(u, -bound, bound) for u in us]), m, h

    return step
