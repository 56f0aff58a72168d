"""Rules around a rule, in plain NumPy; the rule inside is taken as it is, in the same dtype."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.oracles.norms import global_norm
from trainkit.laws.oracles.pieces import Leaves, Start, Step, together, value_at


@functools.lru_cache(maxsize=32)
def _compiled(tx: Any) -> tuple[Any, Any]:
    return jax.jit(tx.init), jax.jit(tx.update)


def foreign(tx: Any) -> Start:
    """A transformation that was given as an argument: the reference is of what is around it."""

    def start(params: Leaves) -> Step:
        wide = any(np.asarray(p).dtype == np.float64 for p in params)
        setting = jax.enable_x64(True) if wide else contextlib.nullcontext()
        init, update = _compiled(tx)
        with setting:
            state = init([jnp.asarray(p) for p in params])

        def step(gs: Leaves, ps: Leaves, t: int, **_: Any) -> list[Any]:
            nonlocal state
            with jax.enable_x64(True) if wide else contextlib.nullcontext():
                lists = [[jnp.asarray(x) for x in xs] for xs in (gs, ps)]
                updates, state = update(lists[0], state, lists[1])
                return [np.asarray(u) for u in updates]

        return step

    return start


def multi_steps(inner: Start, every: Any, mean: bool, skip: Any) -> Start:
    """The mean (or the sum) of k gradients to the rule inside, zero in between.

    k may be a function of the steps taken so far. A gradient that `skip` refuses is as if it had
    not come.
    """

    @together(lambda p0: (inner(p0), 0, []))
    def step(
        gs: Leaves, ps: Leaves, t: int, run: Step, taken: int, held: list[Leaves], **extra: Any
    ) -> Any:
        still = [np.zeros_like(g) for g in gs]
        if skip is not None and bool(skip([jnp.asarray(g) for g in gs], taken, ps)[0]):
            return still, run, taken, held
        held = [*held, gs]
        if len(held) < int(every(taken) if callable(every) else every):
            return still, run, taken, held
        whole = [sum(one) / (len(held) if mean else 1) for one in zip(*held, strict=True)]
        return run(whole, ps, taken + 1, **extra), run, taken + 1, []

    return step


def if_finite(inner: Start, limit: int) -> Start:
    """Zero for a gradient that is not finite, until more than `limit` such have come in a row."""

    @together(lambda p0: (inner(p0), 0, 0))
    def step(gs: Leaves, ps: Leaves, t: int, run: Step, bad: int, taken: int, **extra: Any) -> Any:
        bad = 0 if all(np.isfinite(g).all() for g in gs) else bad + 1
        if 0 < bad <= limit:
            return [np.zeros_like(g) for g in gs], run, bad, taken
        return run(gs, ps, taken + 1, **extra), run, bad, taken + 1

    return step


def sometimes(inner: Start, when: Callable[[int], Any], otherwise: float) -> Start:
    """The rule on the steps that `when` chooses, `otherwise` times the gradient on the others."""

    @together(lambda p0: (inner(p0), 0))
    def step(gs: Leaves, ps: Leaves, t: int, run: Step, taken: int, **extra: Any) -> Any:
        if not bool(when(t - 1)):
            return [otherwise * g for g in gs], run, taken
        return run(gs, ps, taken + 1, **extra), run, taken + 1

    return step


def joined(inner: Start) -> Start:
    """All leaves laid side by side, and the rule on that one vector."""

    def start(p0: Leaves) -> Step:
        join = lambda xs: np.concatenate([np.ravel(x) for x in xs])
        run, ends = inner([join(p0)]), np.cumsum([np.size(p) for p in p0])[:-1]

        def step(gs: Leaves, ps: Leaves, t: int, **extra: Any) -> list[Any]:
            (u,) = run([join(gs)], [join(ps)], t, **extra)
            parts = np.split(u, ends)
            return [x.reshape(np.shape(g)) for x, g in zip(parts, gs, strict=True)]

        return step

    return start


def schedule_free(inner: Start, rate: Any, b1: float, power: float, ahead: int = 0) -> Start:
    """Schedule-free (Defazio 2024, arXiv 2405.15682): z takes the steps, and x averages z.

    Gradients are taken at y.
    y = (1 − β₁) z + β₁ x is what is trained, and x is read back from it. The weights of the average
    are the largest rate so far to the given power, counted `ahead` of the steps.
    """

    zero = lambda p0: np.asarray(p0[0]).dtype.type(0)

    @together(lambda p0: (inner(p0), list(p0), zero(p0), zero(p0)))
    def step(
        gs: Leaves, ps: Leaves, t: int, run: Step, z: Leaves, top: Any, total: Any, **extra: Any
    ) -> Any:
        top = np.maximum(top, value_at(rate, t + ahead))
        total = total + top**power
        share = top**power / total if total > 0 else 0.0
        x = [(p - (1 - b1) * q) / b1 for p, q in zip(ps, z, strict=True)]
        z = [q + u for q, u in zip(z, run(gs, ps, t, **extra), strict=True)]
        x = [(1 - share) * a + share * q for a, q in zip(x, z, strict=True)]
        us = [b1 * a + (1 - b1) * q - p for a, q, p in zip(x, z, ps, strict=True)]
        return us, run, z, top, total

    return step


def sam(outer: Start, inner: Start, period: int, resets: bool) -> Start:
    """Sharpness-aware (Foret 2021): climb by `inner`, then step by `outer` from where it began."""

    @together(lambda p0: (inner(p0), outer(p0), p0, 0, 0))
    def step(
        gs: Leaves, ps: Leaves, t: int, climb: Step, descend: Step, home: Leaves, climbed: int,
        descended: int, **extra: Any,
    ) -> Any:  # fmt: skip
        at = (t - 1) % period
        if at < period - 1:
            home = ps if at == 0 else home
            up = [-u for u in climb(gs, ps, climbed + 1, **extra)]
            return up, climb, descend, home, climbed + 1, descended
        home = ps if period == 1 else home
        if resets:
            climb, climbed = inner(ps), 0
        down = descend(gs, home, descended + 1, **extra)
        us = [h - p + u for h, p, u in zip(home, ps, down, strict=True)]
        return us, climb, descend, home, climbed, descended + 1

    return step


def cautious(inner: Start, slack: float) -> Start:
    """Cautious (Liang 2024, arXiv 2411.16085): of a step u only what goes down by this gradient.

    φ = 1(u ∘ g > 0) for the paper's u, which is subtracted; each leaf's step is then larger by
    dim(φ) / (nnz(φ) + ξ), with ξ = 1 in the paper. (Its authors' later code divides by the mean of
    φ, at least .001.)
    """

    @together(lambda p0: (inner(p0),))
    def step(gs: Leaves, ps: Leaves, t: int, run: Step, **extra: Any) -> Any:
        us = run(gs, ps, t, **extra)
        phis = [np.sign(u) * np.sign(g) < 0 for u, g in zip(us, gs, strict=True)]
        out = [u * m * (m.size / (m.sum() + slack)) for u, m in zip(us, phis, strict=True)]
        return [o.astype(u.dtype) for o, u in zip(out, us, strict=True)], run

    return step


def toward(rate: float) -> Start:
    """Of the way back from the slow weights the share that they take: φ ← φ − α (φ − θ)."""
    return lambda p0: lambda gs, ps, t, **_: [-rate * g for g in gs]


def lookahead(inner: Start, outer: Start, period: int) -> Start:
    """Lookahead (Zhang 2019, arXiv 1907.08610, algorithm 1), and DiLoCo's outer step.

    Every k steps the slow weights φ take a step by `outer`, whose gradient is φ − θ (Douillard
    2023, arXiv 2311.08105, algorithm 1; with one worker, and the same inner state), and θ is φ.
    """

    @together(lambda p0: (inner(p0), outer(p0), list(p0)))
    def step(
        gs: Leaves, ps: Leaves, t: int, run: Step, slowly: Step, slow: Leaves, **extra: Any
    ) -> Any:
        us = run(gs, ps, t, **extra)
        if t % period:
            return us, run, slowly, slow
        back = [s - (p + u) for s, p, u in zip(slow, ps, us, strict=True)]
        moved = slowly(back, slow, t // period)
        slow = [s + m for s, m in zip(slow, moved, strict=True)]
        return [s - p for s, p in zip(slow, ps, strict=True)], run, slowly, slow

    return step


def mechanic(
    inner: Start, decay: float, eps: float, first: float, betas: int, optax: bool = False
) -> Start:
    """Mechanic (Cutkosky 2023, arXiv 2306.00144, algorithm 1): learns the scale s of Δ, where
    x = x₀ − s Δ.

    In the form that keeps no Δ: it is read back from x. The first s, and the ε in m, are as Optax
    has them. `optax`: the h that is rewarded is clipped to the largest before it, and a reward
    below 0 is kept, and counts as 0.
    """

    shares = [1 - 0.1**i for i in range(1, betas + 1)]

    def memory(p0: Leaves) -> tuple[Any, ...]:
        kind = np.asarray(p0[0]).dtype.type
        r, v, m = (np.zeros(betas, kind) for _ in range(3))
        return inner(p0), list(p0), r, v, m, np.full(betas, first, kind)

    @together(memory)
    def step(
        gs: Leaves, ps: Leaves, t: int, run: Step, x0: Leaves, r: Any, v: Any, m: Any, s: Any,
        **extra: Any,
    ) -> Any:  # fmt: skip
        kind, b = s.dtype.type, np.array(shares).astype(s.dtype)
        x0 = list(ps) if t == 1 else x0
        down = run(gs, ps, t, **extra)
        whole = s.sum()
        pull = decay * whole * kind(global_norm(gs)) / (kind(global_norm(ps)) + eps)
        delta = [(a - p) / (whole + eps) for a, p in zip(x0, ps, strict=True)]
        h = sum(np.sum((g + pull * p) * d) for g, p, d in zip(gs, ps, delta, strict=True))
        gain = np.clip(h, -m, m) if optax else h
        m = np.maximum(b * m, np.abs(h) + eps)
        v = b * b * v + h * h
        r = b * r + gain * s  # h > 0: Δ = x₀ − x was a way down
        r = r if optax else np.maximum(r, 0)
        s = (first / betas * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        us = [a - s.sum() * (d - u) - p for a, d, u, p in zip(x0, delta, down, ps, strict=True)]
        return us, run, x0, r, v, m, s

    return step


def on_plateau(
    factor: float, patience: int, rtol: float, atol: float, cooldown: int, size: int, low: float,
    of_size: bool = True,
) -> Start:  # fmt: skip
    """Times `factor` more whenever the mean of `size` losses was no better `patience` times.

    Better is lower than the best by `rtol` of its size; `of_size=False`: of its value, which for a
    best below 0 calls a higher loss better.
    """

    @together(lambda p0: (1.0, np.inf, 0, 0, ()))
    def step(
        gs: Leaves, ps: Leaves, t: int, scale: float, best: float, worse: int, rest: int,
        losses: tuple[float, ...], *, value: Any = 1.0, **_: Any,
    ) -> Any:  # fmt: skip
        losses = (*losses, float(value))
        if len(losses) == size:
            mean, losses = float(np.mean(losses)), ()
            share = rtol * (abs(best) if of_size else best) if np.isfinite(best) else 0.0
            better = mean < best - share - atol
            best, worse = (mean, 0) if better else (best, worse + 1)
            if rest > 0:
                rest, worse = rest - 1, 0
            elif worse == patience:
                scale, worse, rest = max(scale * factor, low), 0, cooldown
        return [scale * g for g in gs], scale, best, worse, rest, losses

    return step
