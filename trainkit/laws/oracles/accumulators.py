"""Rules that divide by what they have summed of squared gradients, in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.oracles.pieces import Start, gone, leafwise, recursion, value_at


def rms(
    beta: float,
    eps: float,
    initial: float,
    inside: bool,
    correct: bool = False,
    centred: bool = False,
) -> Start:
    """RMSProp (Tieleman & Hinton 2012); centred: Graves 2013."""

    @recursion(initial, 0.0)
    def step(g: Any, p: Any, t: int, v: Any, m: Any) -> Any:
        v = beta * v + (1 - beta) * (g * g)
        m = beta * m + (1 - beta) * g
        c = gone(beta, t, g) if correct else 1.0
        power = v / c - (m / c) ** 2 if centred else v / c
        return g / (np.sqrt(power + eps) if inside else np.sqrt(power) + eps), v, m

    return step


def adagrad(initial: float, eps: float, inside: bool = False) -> Start:
    """Adagrad (Duchi 2011, figure 1); a coordinate never seen does not move.

    inside: whether ε is under the root, which the paper's δ is not.
    """

    @recursion(initial)
    def step(g: Any, p: Any, t: int, s: Any) -> Any:
        s = s + g * g
        root = np.sqrt(s + eps) if inside else np.sqrt(s) + eps  # H = δ I + diag(s)^½
        return g * np.where(s > 0, 1 / np.where(s > 0, root, 1), 0.0).astype(g.dtype), s

    return step


def adadelta(rho: float, eps: float) -> Start:
    """Adadelta (Zeiler 2012, arXiv 1212.5701, algorithm 1)."""

    @recursion(0.0, 0.0)
    def step(g: Any, p: Any, t: int, v: Any, x: Any) -> Any:
        v = rho * v + (1 - rho) * g * g
        u = np.sqrt(x + eps) / np.sqrt(v + eps) * g
        return u, v, rho * x + (1 - rho) * u * u

    return step


def sm3(beta: float, eps: float = 1e-8) -> Start:
    """SM3-II (Anil 2019, arXiv 1901.11150): one accumulator for each row, column, …

    With momentum, an average as in its authors' code.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        axes = range(max(np.ndim(p0), 1))
        rows = [np.zeros_like(np.atleast_1d(p0)) for _ in axes]
        m = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m, rows
            v = np.atleast_1d(g * g) + np.minimum.reduce(rows)
            for i in axes:
                others = tuple(j for j in axes if j != i)
                rows[i] = np.broadcast_to(v.max(axis=others, keepdims=True), v.shape)
            v = v.reshape(np.shape(g))
            u = g * np.where(v > 0, 1 / np.sqrt(v + eps), 0.0).astype(v.dtype)
            m = beta * m + (1 - beta) * u
            return m

        return step

    return leafwise(leaf)


def rprop(
    rate: float, minus: float, plus: float, low: float, high: float, late: bool = False
) -> Start:
    """iRprop⁻ (Igel & Hüsken 2003), Rprop (Riedmiller & Braun 1993) without weight backtracking.

    Its memory is the last step taken, zero where the sign has just changed. `late`: the step of
    the call before is what is returned, where the sign has not changed.
    """

    @recursion(rate, 0.0)
    def step(g: Any, p: Any, t: int, size: Any, last: Any) -> Any:
        s = np.sign(g) * np.sign(last)
        grown = np.clip(size * np.where(s > 0, plus, minus), low, high).astype(g.dtype)
        size = np.where(s == 0, size, grown)
        new = np.where(s < 0, 0.0, size * np.sign(g)).astype(g.dtype)
        return (np.where(s < 0, 0.0, last).astype(g.dtype) if late else new), size, new

    return step


def factored(on: bool, exponent: float, offset: int, smallest: int, eps: float) -> Start:
    """Adafactor's second moment (Shazeer & Stern 2018, arXiv 1804.04235, algorithm 4).

    Row and column means of large matrices, where the paper has sums: in R C / 1ᵀR it is the same.
    """

    @recursion(0.0, 0.0, 0.0)
    def step(g: Any, p: Any, t: int, row: Any, col: Any, full: Any) -> Any:
        order = [int(i) for i in np.argsort(np.shape(g))]
        b = 1 - float(t - offset) ** -exponent
        power = g * g + eps
        if not (on and len(order) >= 2 and np.shape(g)[order[-2]] >= smallest):
            full = b * full + (1 - b) * power
            return g / np.sqrt(full), row, col, full
        d1, d0 = order[-2:]
        row = b * row + (1 - b) * power.mean(axis=d0, keepdims=True)
        col = b * col + (1 - b) * power.mean(axis=d1, keepdims=True)
        return g / np.sqrt(row / row.mean(axis=d1, keepdims=True)) / np.sqrt(col), row, col, full

    return step


def madgrad(rate: Any, momentum: float, eps: float, more: float = 0.0) -> Start:
    """MADGRAD (Defazio & Jelassi 2021, algorithm 1): dual averaging from x₀, over a cube root.

    `more` is what the authors' code adds to the rate.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        s, v = np.zeros_like(p0), np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal s, v
            weight = (value_at(rate, t) + more) * float(np.sqrt(t))  # λ = γ √(k + 1)
            v = v + weight * (g * g)
            s = s + weight * g
            z = p0 - s / (np.cbrt(v) + eps)
            return (1 - momentum) * (z - p)  # x ← (1 − c) x + c z

        return step

    return leafwise(leaf)
