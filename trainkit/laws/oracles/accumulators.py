"""Rules that divide by what they have summed of squared gradients, in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.oracles.pieces import Start, gone, leafwise, value_at


def rms(
    beta: float,
    eps: float,
    initial: float,
    inside: bool,
    centred: bool = False,
    correct: bool = False,
) -> Start:
    """RMSProp (Tieleman & Hinton 2012); centred: Graves 2013."""

    def leaf(p0: Any) -> Callable[..., Any]:
        v, m = np.full_like(p0, initial), np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal v, m
            v = beta * v + (1 - beta) * (g * g)
            m = beta * m + (1 - beta) * g
            c = gone(beta, t, p0) if correct else 1.0
            power = v / c - (m / c) ** 2 if centred else v / c
            return g / np.sqrt(power + eps) if inside else g / (np.sqrt(power) + eps)

        return step

    return leafwise(leaf)


def adagrad(initial: float, eps: float) -> Start:
    """Adagrad (Duchi 2011), ε inside the root; a coordinate never seen does not move."""

    def leaf(p0: Any) -> Callable[..., Any]:
        s = np.full_like(p0, initial)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal s
            s = s + g * g
            return g * np.where(s > 0, 1 / np.sqrt(s + eps), 0.0).astype(p0.dtype)

        return step

    return leafwise(leaf)


def adadelta(rho: float, eps: float) -> Start:
    """Adadelta (Zeiler 2012)."""

    def leaf(p0: Any) -> Callable[..., Any]:
        v, x = np.zeros_like(p0), np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal v, x
            v = rho * v + (1 - rho) * g * g
            u = np.sqrt(x + eps) / np.sqrt(v + eps) * g
            x = rho * x + (1 - rho) * u * u
            return u

        return step

    return leafwise(leaf)


def sm3(beta: float, eps: float = 1e-8) -> Start:
    """SM3-I (Anil 2019) with momentum: one accumulator for each row, column, …"""

    def leaf(p0: Any) -> Callable[..., Any]:
        shape = np.shape(p0)
        rows = [np.zeros([n if i == j else 1 for j in range(len(shape))], np.asarray(p0).dtype)
                for i, n in enumerate(shape)]  # fmt: skip
        m = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m
            cover = rows[0]
            for r in rows[1:]:
                cover = np.minimum(cover, r)
            v = g * g + cover
            for i in range(len(rows)):
                others = tuple(j for j in range(len(rows)) if j != i)
                rows[i] = v.max(axis=others, keepdims=True) if others else v
            u = g * np.where(v > 0, 1 / np.sqrt(v + eps), 0.0).astype(v.dtype)
            m = beta * m + (1 - beta) * u
            return m

        return step

    return leafwise(leaf)


def rprop(rate: float, minus: float, plus: float, low: float, high: float) -> Start:
    """Rprop (Riedmiller & Braun 1993), the variant without backtracking of the weights.

    Its memory is the last step taken, zero where the sign has just changed.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        size, last = np.full_like(p0, rate), np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal size, last
            s = np.sign(g) * np.sign(last)
            grown = np.clip(size * np.where(s > 0, plus, minus), low, high).astype(p0.dtype)
            size = np.where(s == 0, size, grown)
            last = np.where(s < 0, 0.0, size * np.sign(g)).astype(p0.dtype)
            return last

        return step

    return leafwise(leaf)


def factored(on: bool, exponent: float, offset: int, smallest: int, eps: float) -> Start:
    """Adafactor's second moment (Shazeer & Stern 2018): row and column means of large matrices."""

    def leaf(p0: Any) -> Callable[..., Any]:
        shape = np.shape(p0)
        order = np.argsort(shape)
        split = on and len(shape) >= 2 and shape[order[-2]] >= smallest
        row: Any = 0.0
        col: Any = 0.0
        full = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal row, col, full
            b = 1 - float(t - offset) ** -exponent
            power = g * g + eps
            if not split:
                full = b * full + (1 - b) * power
                return g / np.sqrt(full)
            d1, d0 = int(order[-2]), int(order[-1])
            row = b * row + (1 - b) * power.mean(axis=d0, keepdims=True)
            col = b * col + (1 - b) * power.mean(axis=d1, keepdims=True)
            return g / np.sqrt(row / row.mean(axis=d1, keepdims=True)) / np.sqrt(col)

        return step

    return leafwise(leaf)


def madgrad(rate: Any, momentum: float, eps: float) -> Start:
    """MADGRAD (Defazio & Jelassi 2021): dual averaging from x₀, over a cube root, then averaged.

    Its authors' code adds ε to the rate, and so does this.
    """

    def leaf(p0: Any) -> Callable[..., Any]:
        s, v = np.zeros_like(p0), np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal s, v
            weight = (value_at(rate, t) + eps) * float(np.sqrt(t))
            v = v + weight * (g * g)
            s = s + weight * g
            z = p0 - s / (np.cbrt(v) + eps)
            return (1 - momentum) * (z - p)

        return step

    return leafwise(leaf)
