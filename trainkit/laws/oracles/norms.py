"""Pieces that measure lengths: clipping, normalising, trust ratios, Polyak's step; plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainkit.laws.oracles.pieces import Leaves, Start, stateless, together, value_at


def trust_ratio(coefficient: float = 1.0, eps: float = 0.0, floor: float = 0.0) -> Start:
    """‖p‖ / ‖u‖ for every leaf (You 2020, arXiv 1904.00962, algorithm 2); 1 where one is 0."""

    def f(g: Any, p: Any) -> Any:
        a, b = (max(float(np.sqrt(np.sum(np.square(x)))), floor) for x in (p, g))
        return g if a == 0 or b == 0 else g * (coefficient * a / (b + eps))

    return stateless(f)


def lars(
    coefficient: float, eps: float, decay: Any, decays: list[Any] | None, trusts: list[Any] | None
) -> Start:
    """LARS (You 2017, equation 6): (g + β w) times η ‖w‖ / (‖g‖ + β ‖w‖), for every leaf.

    1 in place of that where ‖w‖ or the divisor is 0, of which the paper says nothing. The lists say
    which leaves decay, and which have a rate of their own.
    """

    @together(lambda p0: ())
    def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> Any:
        out = []
        for i, (g, p) in enumerate(zip(gs, ps, strict=True)):
            beta = value_at(decay, t) if decays is None or decays[i] else 0.0
            size = lambda x: float(np.sqrt(np.sum(np.square(x))))
            below = size(g) + beta * size(p)
            trusted = (trusts is None or trusts[i]) and size(p) > 0 and below > 0
            out.append((g + beta * p) * (coefficient * size(p) / (below + eps) if trusted else 1.0))
        return (out,)

    return step


def param_block_rms(floor: float = 1e-3) -> Start:
    return stateless(
        lambda g, p: g * max(float(np.sqrt(np.sum(np.square(p)) / max(p.size, 1))), floor)
    )


def param_block_norm(floor: float = 1e-3) -> Start:
    return stateless(lambda g, p: g * max(float(np.sqrt(np.sum(np.square(p)))), floor))


def clip(bound: float) -> Start:
    return stateless(lambda g, p: np.clip(g, -bound, bound))


def clip_block_norm(bound: float) -> Start:
    return stateless(lambda g, p: g / max(1.0, float(np.sqrt(np.sum(np.square(g)))) / bound))


def clip_block_rms(bound: float) -> Start:
    return stateless(
        lambda g, p: g / max(1.0, float(np.sqrt(np.mean(np.square(g)))) / bound) if g.size else g
    )


def global_norm(gs: Leaves) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(np.asarray(g, np.float64)))) for g in gs)))


def clip_global_norm(bound: float) -> Start:
    """Pascanu 2013 (arXiv 1211.5063, algorithm 1): the whole gradient, at most `bound` long."""

    @together(lambda p0: ())
    def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> Any:
        norm = global_norm(gs)
        return (gs if norm < bound else [g * (bound / norm) for g in gs],)

    return step


def normalize(factor: float, eps: float) -> Start:
    @together(lambda p0: ())
    def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> Any:
        return ([g * (factor / (global_norm(gs) + eps)) for g in gs],)

    return step


def unit_norm(x: Any, axis: Any) -> Any:
    """The norm of each output unit (Brock 2021, arXiv 2102.06171, equation 3).

    Vectors whole, matrices by column, …
    """
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


def centralize(outputs: int) -> Start:
    """Yong 2020 (arXiv 2004.01461, equation 1): minus the mean over each output's own weights.

    The paper's wᵢ are the columns of W, the weights into one unit, so that the axis of `outputs` is
    the last where kernels are [in, out], as in Flax.
    """

    def f(g: Any, p: Any) -> Any:
        inputs = tuple(set(range(g.ndim)) - {outputs % g.ndim}) if g.ndim > 1 else ()
        return g - g.mean(inputs, keepdims=True) if inputs else g

    return stateless(f)


def zero_nans() -> Start:
    return stateless(lambda g, p: np.where(np.isnan(g), 0.0, g).astype(g.dtype))


def keep_nonnegative() -> Start:
    """Never past zero: the update −p where p + u would be negative."""
    return stateless(lambda g, p: np.where(p + g < 0, -p, g).astype(g.dtype))


def polyak(f_min: float, top: float, eps: float, positive: bool) -> Start:
    """Loizou 2021 (arXiv 2002.10542), SPS_max with c = 1: min((f − f*) / (‖g‖² + ε), top)."""

    @together(lambda p0: ())
    def step(gs: Leaves, ps: Leaves, t: int, *, value: Any = 1.0, **_: Any) -> Any:
        power = global_norm(gs) ** 2 + eps
        gap = float(value) - f_min
        gap = max(gap, 0.0) if positive else gap
        rate = 0.0 if power <= np.finfo(np.float64).eps else min(gap / power, top)
        return ([rate * g for g in gs],)

    return step


def per_example(bound: float) -> Start:
    """The mean over examples (the first axis) of gradients cut to a length (Abadi et al. 2016)."""

    @together(lambda p0: ())
    def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> Any:
        squares = sum(np.sum(np.square(g), axis=tuple(range(1, g.ndim))) for g in gs)
        length = np.sqrt(squares)
        factor = np.where(length > bound, bound / np.where(length > 0, length, 1), 1)
        column = lambda g: factor.reshape(-1, *[1] * (g.ndim - 1)).astype(g.dtype)
        return ([np.mean(g * column(g), axis=0) for g in gs],)

    return step
