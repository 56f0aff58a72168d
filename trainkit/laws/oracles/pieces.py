"""Update rules in plain NumPy, written from their papers; they share no code with Optax.

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


def adam(
    b1: float,
    b2: float,
    eps: float,
    eps_root: float = 0.0,
    nesterov: bool = False,
    maximum: bool = False,
    correct: tuple[bool, bool] = (True, True),
    belief: bool = False,
    yogi: float | None = None,
    infinity: bool = False,
    rectify: float | None = None,
) -> Start:
    """Adam (Kingma & Ba 2015) and the rules that differ from it in one line.

    maximum: AMSGrad (Reddi 2018); belief: AdaBelief (Zhuang 2020); yogi: Zaheer 2018, with its
    initial accumulator; infinity: AdaMax; rectify: RAdam (Liu 2020), with its threshold.
    """
    rho_inf = 2 / (1 - b2) - 1

    def leaf(p0: Any) -> Callable[..., Any]:
        first = 0.0 if yogi is None else yogi
        m, v, top = np.full_like(p0, first), np.full_like(p0, first), np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m, v, top
            m = b1 * m + (1 - b1) * g
            if infinity:
                v = np.maximum(b2 * v, np.abs(g) + eps)
                return (m / gone(b1, t, p0)) / v
            if yogi is not None:
                v = v + (1 - b2) * np.sign(g * g - v) * (g * g)
            elif belief:
                v = b2 * v + (1 - b2) * (g - m) ** 2 + eps_root
            else:
                v = b2 * v + (1 - b2) * (g * g)
            m_hat = m / gone(b1, t, p0) if correct[0] else m
            if nesterov:
                m_hat = b1 * m / gone(b1, t + 1, p0) + (1 - b1) * g / gone(b1, t, p0)
            v_hat = v / gone(b2, t, p0) if correct[1] else v
            if maximum:
                top = np.maximum(top, v_hat)
                v_hat = top
            root = 0.0 if belief else eps_root
            if rectify is not None:
                rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
                if rho < rectify:
                    return m_hat
                r = ((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)
                m_hat = float(np.sqrt(r)) * m_hat
            return m_hat / (np.sqrt(v_hat + root) + eps)

        return step

    return leafwise(leaf)


def adan(b1: float, b2: float, b3: float, eps: float, eps_root: float) -> Start:
    """Adan (Xie 2022), with 1 − β for the paper's β, and bias-corrected."""

    def leaf(p0: Any) -> Callable[..., Any]:
        m = v = n = last = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m, v, n, last
            change = np.zeros_like(p0) if t == 1 else g - last
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * change
            n = b3 * n + (1 - b3) * (g + (1 - b2) * change) ** 2
            last = g
            top = m / gone(b1, t, p0) + (1 - b2) * v / gone(b2, t, p0)
            return top / (np.sqrt(n / gone(b3, t, p0) + eps_root) + eps)

        return step

    return leafwise(leaf)


def lion(b1: float, b2: float) -> Start:
    """Lion (Chen 2023): the sign of one interpolation, the memory of another."""

    def leaf(p0: Any) -> Callable[..., Any]:
        m = np.zeros_like(p0)

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m
            u = np.sign(b1 * m + (1 - b1) * g)
            m = b2 * m + (1 - b2) * g
            return u

        return step

    return leafwise(leaf)


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
            safe = np.where(s > 0, s, 1.0).astype(p0.dtype)
            return np.where(s > 0, g / np.sqrt(safe + eps), 0.0).astype(p0.dtype)

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
            u = np.where(v > 0, g / np.sqrt(v + eps), 0.0).astype(v.dtype)
            m = beta * m + (1 - beta) * u
            return m

        return step

    return leafwise(leaf)


def novograd(b1: float, b2: float, eps: float, eps_root: float, wd: float) -> Start:
    """NovoGrad (Ginsburg 2019): one second moment a leaf, decay inside the momentum."""

    def leaf(p0: Any) -> Callable[..., Any]:
        m: Any = np.zeros_like(p0)
        v: Any = 0.0

        def step(g: Any, p: Any, t: int) -> Any:
            nonlocal m, v
            power = np.sum(g * g)
            v = power if t == 1 else b2 * v + (1 - b2) * power
            d = g / (np.sqrt(v + eps_root) + eps) + wd * p
            m = d if t == 1 else b1 * m + d
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


def trust_ratio(coefficient: float = 1.0, eps: float = 0.0, floor: float = 0.0) -> Start:
    """‖p‖ / ‖u‖ for every leaf (You 2017); 1 where either is zero."""

    def f(g: Any, p: Any) -> Any:
        a, b = (max(float(np.sqrt(np.sum(np.square(x)))), floor) for x in (p, g))
        return g if a == 0 or b == 0 else g * (coefficient * a / (b + eps))

    return stateless(f)


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


def param_block_rms(floor: float = 1e-3) -> Start:
    return stateless(lambda g, p: g * max(float(np.sqrt(np.mean(np.square(p)))), floor))


def param_block_norm(floor: float = 1e-3) -> Start:
    return stateless(lambda g, p: g * max(float(np.sqrt(np.sum(np.square(p)))), floor))


def clip(bound: float) -> Start:
    return stateless(lambda g, p: np.clip(g, -bound, bound))


def clip_block_rms(bound: float) -> Start:
    return stateless(
        lambda g, p: g / max(1.0, float(np.sqrt(np.mean(np.square(g)))) / bound) if g.size else g
    )


def global_norm(gs: Leaves) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(np.asarray(g, np.float64)))) for g in gs)))


def clip_global_norm(bound: float) -> Start:
    """Pascanu 2013: the whole gradient, at most `bound` long."""

    def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> list[Any]:
        norm = global_norm(gs)
        return list(gs) if norm < bound else [g * (bound / norm) for g in gs]

    return lambda params: step


def normalize(factor: float, eps: float) -> Start:
    def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> list[Any]:
        return [g * (factor / (global_norm(gs) + eps)) for g in gs]

    return lambda params: step


def unit_norm(x: Any, axis: Any) -> Any:
    """The norm of each output unit (Brock 2021): vectors whole, matrices by column, …"""
    if axis is None:
        squeezed = np.ndim(np.squeeze(x))
        axis = tuple(range(np.ndim(x))) if squeezed <= 1 else (
            (0,) if np.ndim(x) in (2, 3) else tuple(range(np.ndim(x) - 1)))  # fmt: skip
    return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True))


def adaptive_clip(clipping: float, eps: float, axis: Any = None) -> Start:
    def f(g: Any, p: Any) -> Any:
        bound, norm = clipping * np.maximum(unit_norm(p, axis), eps), unit_norm(g, axis)
        return np.where(norm < bound, g, g * (bound / np.maximum(norm, 1e-6))).astype(g.dtype)

    return stateless(f)


def centralize() -> Start:
    """Yong 2020: minus the mean over all axes but the first."""
    return stateless(
        lambda g, p: g - g.mean(tuple(range(1, g.ndim)), keepdims=True) if np.ndim(g) > 1 else g
    )


def zero_nans() -> Start:
    return stateless(lambda g, p: np.where(np.isnan(g), 0.0, g).astype(g.dtype))


def keep_nonnegative() -> Start:
    """Never past zero: the update −p where p + u would be negative."""
    return stateless(lambda g, p: np.where(p + g < 0, -p, g).astype(g.dtype))


def polyak(f_min: float, top: float, eps: float, positive: bool) -> Start:
    """Loizou 2021: min((f − f*) / (‖g‖² + ε), top)."""

    def step(gs: Leaves, ps: Leaves, t: int, *, value: Any = 1.0, **_: Any) -> list[Any]:
        power = global_norm(gs) ** 2 + eps
        gap = float(value) - f_min
        gap = max(gap, 0.0) if positive else gap
        rate = 0.0 if power <= np.finfo(np.float64).eps else min(gap / power, top)
        return [rate * g for g in gs]

    return lambda params: step


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
