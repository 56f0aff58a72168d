"""References for rules that Optax has not, each a function of its hyper-parameters.

`like="mars"` means it, and its signature says what `hyperparams` may have. Kernels are [in, out],
as in Flax: where a paper writes about the rows of W, one for each output, these are the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.oracles import adaptive, curvature
from trainkit.laws.oracles import matrices as M
from trainkit.laws.oracles import pieces as P
from trainkit.laws.oracles import wrappers as W
from trainkit.laws.oracles.matrices import STANDARD, newton_schulz
from trainkit.laws.oracles.pieces import Start, gone


def cautious(inner: Any, slack: float = 1.0) -> Start:
    return W.cautious(W.foreign(inner), slack)


def lookahead(
    inner: Any, sync_period: int = 5, slow_step_size: float = 0.5, outer: Any = None
) -> Start:
    slow = W.toward(slow_step_size) if outer is None else W.foreign(outer)
    return W.lookahead(W.foreign(inner), slow, sync_period)


def mars(
    learning_rate: Any, b1: float = 0.95, b2: float = 0.99, eps: float = 1e-8,
    gamma: float = 0.025, weight_decay: Any = 0.0, mask: Any = None,
) -> Start:  # fmt: skip
    """MARS-AdamW, approximate (Yuan 2024, arXiv 2411.10438): Adam of c, cut to length 1 by leaf.

    c_t = g_t + γ β₁/(1 − β₁) (g_t − g_{t−1}). The paper begins with x₁ = x₀, so that c₁ = g₁; its
    authors' code with a gradient of 0 before the first.
    """

    @P.recursion(0.0, 0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any, last: Any) -> Any:
        c = g + gamma * b1 / (1 - b1) * (g - (g if t == 1 else last))
        c = c / max(1.0, float(np.sqrt(np.sum(np.square(c)))))
        m, v = b1 * m + (1 - b1) * c, b2 * v + (1 - b2) * c * c
        return m / gone(b1, t, g) / (np.sqrt(v / gone(b2, t, g)) + eps), m, v, g

    return P.chain(step, P.decay(weight_decay, mask), P.learning_rate(learning_rate))


def adam_mini(
    learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Start:  # fmt: skip
    """Adam-mini (Zhang 2024, arXiv 2406.16793): v ← β₂ v + (1 − β₂) mean(g ∘ g) over each block.

    Its blocks here are what goes into one output, and a vector or a scalar whole.
    """

    @P.recursion(0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any) -> Any:
        along = tuple(range(g.ndim - 1)) if g.ndim > 1 else tuple(range(g.ndim))
        power = np.mean(g * g, axis=along, keepdims=True) if g.size else g
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * power
        return m / gone(b1, t, g) / (np.sqrt(v / gone(b2, t, g)) + eps), m, v

    return P.chain(step, P.decay(weight_decay, mask), P.learning_rate(learning_rate))


def scion(
    learning_rate: Any, beta: float = 0.9, radius: float = 1.0, eps: float = 1e-8,
    unconstrained: bool = False, ns_steps: int = 5,
) -> Start:  # fmt: skip
    """Scion (Pethick 2025, arXiv 2502.07529): θ ← (1 − γ) θ + γ lmo(d), d an average of gradients.

    lmo is −ρ √(out/in) U Vᵀ for matrices (U Vᵀ as Muon has it) and −ρ d / ‖d‖_RMS for vectors, as
    in its authors' code; a convolution [..., in, out] has the former as one matrix [window · in,
    out], over the size of its window. `unconstrained`: θ ← θ + γ lmo(d).
    """

    def step(d: Any, p: Any) -> Any:
        if d.ndim < 2:
            rms = float(np.sqrt(np.sum(np.square(d)) / max(d.size, 1)))
            return radius * d / (rms + eps)
        *window, channels, out = d.shape
        factor = (out / max(channels, 1)) ** 0.5 / max(int(np.prod(window)), 1)
        flat = d.reshape(int(np.prod(d.shape[:-1])), out)
        u = newton_schulz(flat, [STANDARD] * ns_steps, "frobenius", eps)
        return radius * factor * u.reshape(d.shape)

    inward = P.chain() if unconstrained else P.decay(1.0)
    return P.chain(
        P.ema(beta, debias=False), P.stateless(step), inward, P.learning_rate(learning_rate)
    )


def normuon(
    learning_rate: Any, b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8,
    weight_decay: Any = 0.0, mask: Any = None, adam_b1: float = 0.9, adam_b2: float = 0.999,
    ns_steps: int = 5,
) -> Start:  # fmt: skip
    """NorMuon (Li 2025, arXiv 2510.05491, algorithm 1); leaves that are no matrices get Adam."""

    @P.recursion(0.0, 0.0)
    def step(g: Any, p: Any, t: int, m: Any, v: Any) -> Any:
        m = b1 * m + (1 - b1) * g  # M ← β₁ M + (1 − β₁) G
        o = newton_schulz(m, [STANDARD] * ns_steps, "frobenius", eps)  # O = NS5(M)
        mean = np.broadcast_to(np.mean(o * o, axis=0), o.shape)  # of a neuron's weights, its column
        v = b2 * v + (1 - b2) * mean  # v ← β₂ v + (1 − β₂) mean(O ∘ O)
        o = o / (np.sqrt(v) + eps)  # Ô = O / (√V + ε)
        size = float(np.sqrt(np.sum(np.square(o)))) or 1.0
        return 0.2 * o.size**0.5 / size * o, m, v  # η̂ Ô / η = 0.2 √(m n) Ô / ‖Ô‖

    rule = M.matrices_and_others(step, adaptive.adam(adam_b1, adam_b2, eps))
    return P.chain(rule, P.decay(weight_decay, mask), P.learning_rate(learning_rate))


def shampoo(
    learning_rate: Any, epsilon: float = 1e-4, every: int = 1, b2: float | None = None,
    graft: str | None = None, b1: float = 0.0, corrected: bool = False, start: int = 1,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Start:  # fmt: skip
    """Shampoo: by its arguments, that of Gupta 2018, or the distributed one of Shi 2023."""
    rule = M.shampoo(epsilon, every, b2, graft, b1, corrected, start)
    return P.chain(rule, P.decay(weight_decay, mask), P.learning_rate(learning_rate))


def dion(
    learning_rate: Any, first: Any, b1: float = 0.95, eps: float = 1e-8, weight_decay: Any = 0.0,
    mask: Any = None, rank_fraction: float = 0.25, adam_b1: float = 0.9, adam_b2: float = 0.95,
) -> Start:  # fmt: skip
    """Dion; leaves that are no matrices get Adam. `first`: (shape, rank) -> the first factor."""
    rule = M.matrices_and_others(
        M.dion(b1, rank_fraction, first), adaptive.adam(adam_b1, adam_b2, eps)
    )
    return P.chain(rule, P.decay(weight_decay, mask), P.learning_rate(learning_rate))


def kron(
    learning_rate: Any, draw: Any, b1: float = 0.9, weight_decay: Any = 0.0, mask: Any = None,
    precond_learning_rate: float = 0.1, precondition_frequency: int = 1,
    max_precond_dim: int = 8192,
) -> Start:  # fmt: skip
    """PSGD with Kronecker factors. `draw`: (number of the step from 0, shape) -> its normal v."""
    rule = curvature.kron(precond_learning_rate, precondition_frequency, b1, max_precond_dim, draw)
    return P.chain(rule, P.decay(weight_decay, mask), P.learning_rate(learning_rate))


def soap(
    learning_rate: Any, b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8,
    weight_decay: float = 0.0, precondition_frequency: int = 10,
) -> Start:  # fmt: skip
    return P.chain(
        M.soap(b1, b2, eps, precondition_frequency, weight_decay), P.learning_rate(learning_rate)
    )


PAPERS: dict[str, Callable[..., Start]] = {
    "cautious": cautious,
    "lookahead": lookahead,
    "mars": mars,
    "adam_mini": adam_mini,
    "scion": scion,
    "normuon": normuon,
    "dion": dion,
    "kron": kron,
    "shampoo": shampoo,
    "soap": soap,
}
