"""Wrong variants of classical rules and schedules, each with one fault that people really make.

`CORRECT` holds the same code without any fault, so that a killed mutant dies of its fault and not
of how it is written. `python -m tests.laws.mutants` prints the score; with `--programs` each
program that a failure prints is run as well, and has to fail.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.laws import searching_mutants as searching
from trainkit.laws.oracles import oracle_for

tmap = jax.tree.map


class Mutant(NamedTuple):
    """A wrong rule: how to make it, and what it claims to be."""

    name: str
    make: Callable[[], Any]
    like: str | None
    hyperparams: dict[str, Any] | None
    claims: Any = None
    level: str = "standard"
    schedule: bool = False
    extra_args: Any = None


class Moments(NamedTuple):
    count: Any
    mu: Any
    nu: Any


def adam(
    lr: Any = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, wd: float = 0.0,
    fault: str = "", seen: Any = None,
) -> optax.GradientTransformation:  # fmt: skip
    """Adam and AdamW written by hand; `fault` plants one error."""

    def init(params):
        zeros = tmap(jnp.zeros_like, params)
        nu = zeros if fault == "moments share buffers" else tmap(jnp.zeros_like, params)
        if fault == "moments in float32":
            nu = tmap(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        if fault == "starts from ones":
            nu = tmap(jnp.ones_like, params)
        count = 0 if fault == "python count" else jnp.zeros([], jnp.int32)
        if fault == "float count":
            count = 0.0
        return Moments(count, zeros, nu)

    def update(updates, state, params=None):
        g = updates
        count = state.count + 1
        if fault == "count by two":
            count = state.count + 2
        if fault == "count off by one":
            count = state.count + 2 * (state.count == 0) + (state.count > 0)
        if fault == "L2 in the gradient":
            g = tmap(lambda x, p: x + wd * p, g, params)
        c1, c2 = (b2, b1) if fault == "betas swapped" else (b1, b2)
        old = state.mu
        mu = tmap(lambda m, x: c1 * m + (1 - c1) * x, state.mu, g)
        if fault == "mu undamped":
            mu = tmap(lambda m, x: c1 * m + x, state.mu, g)
        if fault == "nu from mu":
            nu = tmap(lambda v, m: c2 * v + (1 - c2) * m * m, state.nu, mu)
        elif fault == "nu of absolute values":
            nu = tmap(lambda v, x: c2 * v + (1 - c2) * jnp.abs(x), state.nu, g)
        elif fault == "nu of centred gradient":
            nu = tmap(lambda v, x, m: c2 * v + (1 - c2) * (x - m) ** 2, state.nu, g, mu)
        elif fault == "nu keeps the maximum":
            nu = tmap(lambda v, x: jnp.maximum(v, c2 * v + (1 - c2) * x * x), state.nu, g)
        else:
            nu = tmap(lambda v, x: c2 * v + (1 - c2) * x * x, state.nu, g)
        t = count
        if fault == "correction from the old count":
            t = jnp.maximum(count - 1, 1)
        f1, f2 = 1 - c1**t, 1 - c2**t
        if fault in ("no bias correction", "no correction of mu"):
            f1 = 1.0
        if fault in ("no bias correction", "no correction of nu"):
            f2 = 1.0
        if fault == "corrections swapped":
            f1, f2 = f2, f1
        used = old if fault == "stale momentum" else mu
        if fault == "gradient instead of momentum":
            used = tmap(lambda x: x * jnp.asarray(f1, x.dtype), g)
        if fault == "nesterov":
            used = tmap(lambda m, x: b1 * m + (1 - b1) * x, mu, g)

        def step(m, v):
            m, v = m / jnp.asarray(f1, m.dtype), v / jnp.asarray(f2, v.dtype)
            if fault == "epsilon inside the root":
                return m / jnp.sqrt(v + eps)
            if fault == "epsilon squared inside the root":
                return m / jnp.sqrt(v + eps * eps)
            if fault == "epsilon before correction":
                root = jnp.sqrt(jnp.asarray(f2, v.dtype))
                return m / ((jnp.sqrt(v) * root + eps) / root)
            if fault == "no epsilon":
                return m / jnp.sqrt(v)
            if fault == "epsilon as a floor":
                return m / jnp.maximum(jnp.sqrt(v), eps)
            if fault == "no root":
                return m / (v + eps)
            if fault == "epsilon ten times":
                return m / (jnp.sqrt(v) + 10 * eps)
            return m / (jnp.sqrt(v) + eps)

        out = tmap(step, used, nu)
        rate = lr(state.count) if callable(lr) else lr
        if fault == "schedule one step late":
            rate = lr(state.count + 1)
        if wd and fault != "L2 in the gradient":
            sign = -1.0 if fault == "decay sign" else 1.0
            d = wd / rate if fault == "decay without learning rate" else wd
            if fault == "decay twice the rate":
                d = wd * 2
            if fault == "decay by rate squared":
                d = wd * rate
            if fault == "decay of matrices only":
                out = tmap(lambda u, p: u + sign * d * p * (p.ndim > 1), out, params)
            elif fault == "decay of the sign":
                out = tmap(lambda u, p: u + sign * d * jnp.sign(p), out, params)
            elif fault == "decay grows with the count":
                out = tmap(lambda u, p: u + sign * d * p * (1 + 0.01 * state.count), out, params)
            else:
                out = tmap(lambda u, p: u + sign * d * p, out, params)
        out = tmap(lambda u: -rate * u, out)
        if fault == "wrong sign":
            out = tmap(lambda u: -u, out)
        if fault == "sign wrong after ten steps":
            out = tmap(lambda u: jnp.where(count > 10, -u, u), out)
        if fault == "order of leaves":
            flat, tree = jax.tree.flatten(out)
            out = tree.unflatten(
                [u * jnp.asarray(1 + 0.1 * i, u.dtype) for i, u in enumerate(flat)]
            )
        if fault == "last leaf forgotten":
            flat, tree = jax.tree.flatten(out)
            out = tree.unflatten([*flat[:-1], jnp.zeros_like(flat[-1])])
        if fault == "bias by name":
            out = jax.tree_util.tree_map_with_path(
                lambda k, u: 2 * u if "bias" in jax.tree_util.keystr(k) else u, out
            )
        if fault == "python branch":
            out = out if int(count) > 3 else tmap(lambda u: u * 1.0, out)
        if fault == "numpy inside":
            out = tmap(lambda u: jnp.asarray(np.asarray(u) * 1.0), out)
        if fault == "promotes to float32":
            out = tmap(lambda u: u.astype(jnp.float32), out)
        if fault == "float32 constant":
            out = tmap(lambda u: jnp.float32(1.0) * u, out)
        if fault == "nu drifts to float32":
            nu = tmap(lambda v: v.astype(jnp.float32), nu)
        if fault == "state becomes a tuple":
            return out, (count, mu, nu)
        if fault == "state grows":
            return out, Moments(count, mu, {"nu": nu})
        if fault == "count becomes float":
            count = jnp.asarray(count, jnp.float32)
        if fault == "weak type drifts":
            count = jnp.where(count > 0, 1, 0)
        if fault == "hidden state":
            seen.append(1)
            out = tmap(lambda u: u * (1 + 0.01 * len(seen)), out)
        if fault == "hidden moments":
            key = str(jax.tree.structure(g))
            out = tmap(lambda u, h: u + 0.1 * h, out, seen.get(key, tmap(jnp.zeros_like, out)))
            seen[key] = out
        if fault == "mutates the gradients" and isinstance(updates, dict):
            for k in updates:
                updates[k] = tmap(lambda x: 0 * x, updates[k])
        if fault == "mutates numpy":
            for x in jax.tree.leaves(updates):
                if isinstance(x, np.ndarray):
                    x *= 0.5
        if fault == "per device":
            try:
                i = jax.lax.axis_index("data")
            except NameError:
                i = 0
            out = tmap(lambda u: u * jnp.asarray(1 + 0.1 * i, u.dtype), out)
        if fault == "per device, on an axis of its own name":
            with contextlib.suppress(NameError):
                i = jax.lax.axis_index("corner of the torus")
                out = tmap(lambda u: u * jnp.asarray(1 + 0.1 * i, u.dtype), out)
        if fault == "sums over devices":
            with contextlib.suppress(NameError):
                out = jax.lax.psum(out, "batch")
        if fault == "clips for itself":
            out = tmap(lambda u: jnp.clip(u, -lr, lr), out)
        if fault == "NaN at zero":
            out = tmap(lambda u, x: u * (x / x), out, g)
        if fault == "stops at zero parameters":
            out = tmap(lambda u, p: jnp.where(p == 0, 0.0, u), out, params)
        if fault == "mean over the leaf":
            out = tmap(lambda u: u - 0.001 * u.mean(), out)
        return out, Moments(count, mu, nu)

    return optax.GradientTransformation(init, update)


class Trace(NamedTuple):
    trace: Any


def sgd(
    lr: float = 0.1, momentum: float = 0.9, nesterov: bool = False, fault: str = ""
) -> optax.GradientTransformation:
    def init(params):
        if fault == "trace starts at the parameters":
            return Trace(tmap(lambda p: p + 0, params))
        if fault == "state is the parameters":
            return Trace(params)
        return Trace(tmap(jnp.zeros_like, params))

    def update(g, state, params=None):
        if fault == "state is the parameters":
            return tmap(lambda x: -lr * x, g), state
        if fault == "damped momentum":
            v = tmap(lambda x, t: (1 - momentum) * x + momentum * t, g, state.trace)
        elif fault == "rate inside momentum twice":
            v = tmap(lambda x, t: lr * x + momentum * t, g, state.trace)
        elif fault == "momentum squared":
            v = tmap(lambda x, t: x + momentum**2 * t, g, state.trace)
        elif fault == "old momentum":
            v = state.trace
        else:
            v = tmap(lambda x, t: x + momentum * t, g, state.trace)
        out = v
        if nesterov:
            out = tmap(lambda x, t: x + momentum * t, g, v)
            if fault == "nesterov from the old momentum":
                out = tmap(lambda x, t: x + momentum * t, g, state.trace)
            if fault == "nesterov twice":
                out = tmap(lambda x, t: x + momentum * momentum * t, g, v)
            if fault == "nesterov forgotten":
                out = v
        if fault == "old momentum":
            v = tmap(lambda x, t: x + momentum * t, g, state.trace)
        out = tmap(lambda u: -lr * u, out)
        if fault == "ascends":
            out = tmap(jnp.negative, out)
        if fault == "only the sign of large gradients":
            out = tmap(lambda u: jnp.where(jnp.abs(u) > 5, jnp.sign(u) * 5, u), out)
        if fault == "shape of a bare array":
            out = tmap(jnp.atleast_1d, out)
        return out, Trace(v)

    return optax.GradientTransformation(init, update)


def lion(
    lr: float = 1e-3, b1: float = 0.9, b2: float = 0.99, wd: float = 1e-3, fault: str = ""
) -> optax.GradientTransformation:
    def init(params):
        return Trace(tmap(jnp.zeros_like, params))

    def update(g, state, params=None):
        c1, c2 = (b2, b1) if fault == "betas swapped" else (b1, b2)
        m = state.trace
        new = tmap(lambda x, t: c2 * t + (1 - c2) * x, g, m)
        mixed = tmap(lambda x, t: c1 * t + (1 - c1) * x, g, new if fault == "new memory" else m)
        if fault == "one beta":
            mixed = new
        if fault == "no interpolation":
            mixed = m
        sign = jnp.tanh if fault == "smooth sign" else jnp.sign
        if fault == "sign of zero is one":
            sign = lambda x: jnp.where(x >= 0, 1.0, -1.0).astype(x.dtype)
        out = tmap(lambda u, p: -lr * (sign(u) + wd * p), mixed, params)
        if fault == "decay outside the rate":
            out = tmap(lambda u, p: -lr * sign(u) - wd * p, mixed, params)
        if fault == "no decay":
            out = tmap(lambda u: -lr * sign(u), mixed)
        return out, Trace(new)

    return optax.GradientTransformation(init, update)


def rmsprop(
    lr: float = 1e-2, decay: float = 0.9, eps: float = 1e-8, fault: str = ""
) -> optax.GradientTransformation:
    def init(params):
        start = 1.0 if fault == "starts from one" else 0.0
        return Trace(tmap(lambda p: jnp.full_like(p, start), params))

    def update(g, state, params=None):
        d = 1 - decay if fault == "decay and its complement" else decay
        v = tmap(lambda x, t: d * t + (1 - d) * x * x, g, state.trace)
        used = state.trace if fault == "old second moment" else v
        if fault == "undamped":
            v = used = tmap(lambda x, t: d * t + x * x, g, state.trace)
        if fault == "epsilon outside the root":
            out = tmap(lambda x, t: -lr * x / (jnp.sqrt(t) + eps), g, used)
        else:
            out = tmap(lambda x, t: -lr * x / jnp.sqrt(t + eps), g, used)
        if fault == "one moment a leaf":
            out = tmap(lambda x, t: -lr * x / jnp.sqrt(t.mean() + eps), g, used)
        return out, Trace(v)

    return optax.GradientTransformation(init, update)


def adagrad(lr: float = 0.1, fault: str = "") -> optax.GradientTransformation:
    def init(params):
        start = 0.0 if fault == "starts from zero" else 0.1
        return Trace(tmap(lambda p: jnp.full_like(p, start), params))

    def update(g, state, params=None):
        s = tmap(lambda x, t: t + (jnp.abs(x) if fault == "no square" else x * x), g, state.trace)
        used = state.trace if fault == "sum before this gradient" else s
        if fault == "forgets":
            s = used = tmap(lambda x, t: 0.99 * t + x * x, g, state.trace)
        if fault == "epsilon outside the root":
            out = tmap(lambda x, t: -lr * x / (jnp.sqrt(t) + 1e-4), g, used)
        else:
            out = tmap(lambda x, t: -lr * x / jnp.sqrt(t + 1e-7), g, used)
        return out, Trace(s)

    return optax.GradientTransformation(init, update)


def clip_norm(bound: float = 1.0, fault: str = "") -> optax.GradientTransformation:
    def update(g, state, params=None):
        norm = optax.global_norm(g)
        if fault == "each leaf by itself":
            return tmap(lambda x: x * jnp.minimum(1, bound / jnp.linalg.norm(x.ravel())), g), state
        if fault == "short ones lengthened":
            return tmap(lambda x: x * (bound / norm), g), state
        if fault == "square of the norm":
            return tmap(lambda x: x * jnp.minimum(1.0, bound / norm**2), g), state
        if fault == "mean square":
            n = sum(x.size for x in jax.tree.leaves(g))
            return tmap(lambda x: x * jnp.minimum(1.0, bound / (norm / n**0.5)), g), state
        if fault == "by value":
            return tmap(lambda x: jnp.clip(x, -bound, bound), g), state
        if fault == "no floor at zero":
            return tmap(lambda x: x / norm * jnp.minimum(norm, bound), g), state
        if fault == "largest norm of a leaf":
            top = jnp.max(jnp.stack([jnp.linalg.norm(x.ravel()) for x in jax.tree.leaves(g)]))
            return tmap(lambda x: x * jnp.minimum(1.0, bound / top), g), state
        safe = jnp.maximum(norm, 1e-30)
        return tmap(lambda x: jnp.where(norm < bound, x, x / safe * bound), g), state

    return optax.GradientTransformation(lambda p: optax.EmptyState(), update)


def clip_value(bound: float = 0.5, fault: str = "") -> optax.GradientTransformation:
    def update(g, state, params=None):
        low = 0.0 if fault == "only from above" else -bound
        if fault == "only from above":
            return tmap(lambda x: jnp.minimum(x, bound), g), state
        if fault == "zeroed instead":
            return tmap(lambda x: jnp.where(jnp.abs(x) > bound, 0.0, x), g), state
        return tmap(lambda x: jnp.clip(x, low, bound), g), state

    return optax.GradientTransformation(lambda p: optax.EmptyState(), update)


def cosine(init: float = 0.3, steps: int = 100, alpha: float = 0.1, fault: str = "") -> Any:
    def fn(count):
        t = jnp.minimum(count, steps)
        if fault == "never stops":
            t = count
        if fault == "one step late":
            t = jnp.minimum(count + 1, steps)
        if fault == "ends one step early":
            t = jnp.minimum(count, steps - 1)
        angle = jnp.pi * t / steps
        if fault == "half the angle":
            angle = angle / 2
        if fault == "twice the angle":
            angle = angle * 2
        c = 0.5 * (1 + jnp.cos(angle))
        if fault == "no half":
            c = 1 + jnp.cos(angle)
        if fault == "sine":
            c = 0.5 * (1 + jnp.sin(angle))
        if fault == "alpha added":
            return init * (c + alpha)
        if fault == "alpha absolute":
            return (init - alpha) * c + alpha
        if fault == "alpha forgotten":
            return init * c
        if fault == "python branch":
            return init * alpha if count > steps else init * ((1 - alpha) * c + alpha)
        if fault == "a vector":
            return jnp.reshape(init * ((1 - alpha) * c + alpha), (1,))
        return init * ((1 - alpha) * c + alpha)

    return fn


def warmup(
    peak: float = 1.0, warm: int = 10, total: int = 100, end: float = 0.1, fault: str = ""
) -> Any:
    def fn(count):
        count = jnp.asarray(count)
        rise = peak * count / (warm + (fault == "never reaches its peak"))
        if fault == "starts one step in":
            rise = peak * (count + 1) / warm
        span = total if fault == "decay over the whole" else total - warm
        t = jnp.clip(count - (0 if fault == "decay not shifted" else warm), 0, span) / span
        fall = end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * t))
        if fault == "linear instead of cosine":
            fall = end + (peak - end) * (1 - t)
        edge = warm - 1 if fault == "boundary off by one" else warm
        if fault == "boundary at twice":
            edge = 2 * warm
        return jnp.where(count < edge, rise, fall)

    return fn


def steps(fault: str = "") -> Any:
    def fn(count):
        value = jnp.asarray(1.0)
        for boundary, factor in {20: 0.5, 50: 0.1}.items():
            passed = count > boundary if fault == "after instead of at" else count >= boundary
            if fault == "values instead of factors":
                value = jnp.where(passed, factor, value)
            else:
                value = value * jnp.where(passed, factor, 1.0)
        return value

    return fn


def exponential(fault: str = "") -> Any:
    def fn(count):
        p = count / 10
        if fault == "staircase":
            p = jnp.floor(p)
        if fault == "decay per step":
            p = count * 1.0
        return jnp.maximum(0.5 * 0.9**p, 0.0 if fault == "no end value" else 0.01)

    return fn


def polynomial(fault: str = "") -> Any:
    def fn(count):
        t = (count - 5) / 50
        t = jnp.where(t > 1, 1, t) if fault == "before its begin" else jnp.clip(t, 0, 1)
        if fault == "unclipped":
            t = (count - 5) / 50
        power = 1.0 if fault == "power forgotten" else 2.0
        return (1.0 - 0.1) * (1 - t) ** power + 0.1

    return fn


def _mutants() -> list[Mutant]:
    out: list[Mutant] = []
    lr = {"learning_rate": 1e-3}

    def add(rule: str, fault: str, make: Any, like: str | None, h: Any = None, **more: Any) -> None:
        out.append(Mutant(f"{rule}: {fault}", make, like, h, **more))

    both = (
        "wrong sign", "no bias correction", "no correction of mu", "no correction of nu",
        "corrections swapped", "betas swapped", "mu undamped", "nu from mu",
        "nu of absolute values", "nu of centred gradient", "nu keeps the maximum",
        "count off by one", "count by two", "correction from the old count", "stale momentum",
        "gradient instead of momentum", "nesterov", "epsilon inside the root",
        "epsilon squared inside the root", "epsilon before correction", "no epsilon",
        "epsilon as a floor", "no root", "epsilon ten times", "starts from ones",
        "sign wrong after ten steps", "clips for itself", "stops at zero parameters",
        "last leaf forgotten", "mean over the leaf",
    )  # fmt: skip
    for fault in both:
        add("adam", fault, lambda f=fault: adam(fault=f), "adam", lr)
        add("adam without hyperparams", fault, lambda f=fault: adam(fault=f), "adam")
    universal = (
        "moments share buffers", "moments in float32", "python count", "float count",
        "order of leaves", "bias by name", "python branch", "numpy inside", "promotes to float32",
        "float32 constant", "nu drifts to float32", "state becomes a tuple", "state grows",
        "count becomes float", "weak type drifts", "mutates the gradients", "mutates numpy",
        "per device", "per device, on an axis of its own name", "sums over devices",
        "NaN at zero",
    )  # fmt: skip
    for fault in universal:
        add("any rule", fault, lambda f=fault: adam(fault=f), None)
    held: list[int] = []
    kept: dict[str, Any] = {}
    add("any rule", "hidden state", lambda: adam(fault="hidden state", seen=held), None)
    add("any rule", "hidden moments", lambda: adam(fault="hidden moments", seen=kept), None)
    wd = lr | {"weight_decay": 0.01}
    for fault in ("L2 in the gradient", "decay sign", "decay without learning rate",
                  "decay twice the rate", "decay by rate squared", "decay of matrices only",
                  "decay of the sign", "decay grows with the count"):  # fmt: skip
        add("adamw", fault, lambda f=fault: adam(wd=0.01, fault=f), "adamw", wd)
    add("adamw", "default decay ten times", lambda: adam(wd=1e-3), "adamw", lr)
    add("adamw", "no decay at all", lambda: adam(), "adamw", lr)
    falling = optax.linear_schedule(1e-2, 1e-3, 20)
    add(
        "adam",
        "schedule one step late",
        lambda: adam(falling, fault="schedule one step late"),
        "adam",
        {"learning_rate": falling},
    )
    h = {"learning_rate": 0.1, "momentum": 0.9}
    for fault in ("damped momentum", "rate inside momentum twice", "momentum squared",
                  "old momentum", "ascends", "trace starts at the parameters",
                  "only the sign of large gradients"):  # fmt: skip
        add("sgd", fault, lambda f=fault: sgd(fault=f), "sgd", h)
    for fault in ("nesterov from the old momentum", "nesterov twice", "nesterov forgotten"):
        add(
            "sgd", fault, lambda f=fault: sgd(nesterov=True, fault=f), "sgd", h | {"nesterov": True}
        )
    add("any rule", "state is the parameters", lambda: sgd(fault="state is the parameters"), None)
    add("any rule", "shape of a bare array", lambda: sgd(fault="shape of a bare array"), None)
    for fault in ("betas swapped", "new memory", "one beta", "no interpolation", "smooth sign",
                  "sign of zero is one", "decay outside the rate", "no decay"):  # fmt: skip
        add("lion", fault, lambda f=fault: lion(fault=f), "lion", lr)
    for fault in ("starts from one", "decay and its complement", "old second moment", "undamped",
                  "epsilon outside the root", "one moment a leaf"):  # fmt: skip
        add("rmsprop", fault, lambda f=fault: rmsprop(fault=f), "rmsprop", {"learning_rate": 1e-2})
    for fault in ("starts from zero", "no square", "sum before this gradient", "forgets",
                  "epsilon outside the root"):  # fmt: skip
        add("adagrad", fault, lambda f=fault: adagrad(fault=f), "adagrad", {"learning_rate": 0.1})
    for fault in ("each leaf by itself", "short ones lengthened", "square of the norm",
                  "mean square", "by value", "no floor at zero",
                  "largest norm of a leaf"):  # fmt: skip
        add(
            "clip_by_global_norm",
            fault,
            lambda f=fault: clip_norm(fault=f),
            "clip_by_global_norm",
            {"max_norm": 1.0},
        )
    for fault in ("only from above", "zeroed instead"):
        add("clip", fault, lambda f=fault: clip_value(fault=f), "clip", {"max_delta": 0.5})
    h = {"init_value": 0.3, "decay_steps": 100, "alpha": 0.1}
    for fault in ("never stops", "one step late", "ends one step early", "half the angle",
                  "twice the angle", "no half", "sine", "alpha added", "alpha absolute",
                  "alpha forgotten", "python branch", "a vector"):  # fmt: skip
        add(
            "cosine",
            fault,
            lambda f=fault: cosine(fault=f),
            "cosine_decay_schedule",
            h,
            schedule=True,
        )
    h = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "decay_steps": 100,
         "end_value": 0.1}  # fmt: skip
    for fault in ("never reaches its peak", "starts one step in", "decay over the whole",
                  "decay not shifted", "linear instead of cosine", "boundary off by one",
                  "boundary at twice"):  # fmt: skip
        add(
            "warmup",
            fault,
            lambda f=fault: warmup(fault=f),
            "warmup_cosine_decay_schedule",
            h,
            schedule=True,
        )
    h = {"init_value": 1.0, "boundaries_and_scales": {20: 0.5, 50: 0.1}}
    for fault in ("after instead of at", "values instead of factors"):
        add(
            "steps",
            fault,
            lambda f=fault: steps(fault=f),
            "piecewise_constant_schedule",
            h,
            schedule=True,
        )
    h = {"init_value": 0.5, "transition_steps": 10, "decay_rate": 0.9, "end_value": 0.01}
    for fault in ("staircase", "decay per step", "no end value"):
        add(
            "exponential",
            fault,
            lambda f=fault: exponential(fault=f),
            "exponential_decay",
            h,
            schedule=True,
        )
    half = {"opt": optax.sgd(0.1), "every_k_schedule": 3}
    micro = lambda **more: optax.MultiSteps(**half | more).gradient_transformation()
    add("MultiSteps", "a sum", lambda: micro(use_grad_mean=False), "MultiSteps", half)
    add("MultiSteps", "one too many", lambda: micro(every_k_schedule=4), "MultiSteps", half)
    add("MultiSteps", "no accumulation", lambda: optax.sgd(0.1), "MultiSteps", half)
    guarded = {"inner": optax.adam(1e-3), "max_consecutive_errors": 3}
    add("apply_if_finite", "no guard", lambda: optax.adam(1e-3), "apply_if_finite", guarded)
    for fault, more in {"four steps": {"ns_steps": 4}, "no nesterov": {"nesterov": False},
                        "other beta": {"beta": 0.9}}.items():  # fmt: skip
        add("muon", fault, lambda m=more: optax.contrib.muon(1e-3, **m), "optax.muon", lr)
    h = {"init_value": 1.0, "end_value": 0.1, "power": 2.0, "transition_steps": 50,
         "transition_begin": 5}  # fmt: skip
    for fault in ("before its begin", "power forgotten", "unclipped"):
        add(
            "polynomial",
            fault,
            lambda f=fault: polynomial(fault=f),
            "polynomial_schedule",
            h,
            schedule=True,
        )
    for rule, fault, make, like, h in searching.faults():
        add(rule, fault, make, like, h)
    return out


MUTANTS = _mutants()

CORRECT = (
    Mutant("adam", adam, "adam", {"learning_rate": 1e-3}),
    Mutant("adamw", lambda: adam(wd=0.01), "adamw", {"learning_rate": 1e-3, "weight_decay": 0.01}),
    Mutant("sgd", sgd, "sgd", {"learning_rate": 0.1, "momentum": 0.9}),
    Mutant("nesterov", lambda: sgd(nesterov=True), "sgd",
           {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    Mutant("lion", lion, "lion", {"learning_rate": 1e-3}),
    Mutant("rmsprop", rmsprop, "rmsprop", {"learning_rate": 1e-2}),
    Mutant("adagrad", adagrad, "adagrad", {"learning_rate": 0.1}),
    Mutant("clip_by_global_norm", clip_norm, "clip_by_global_norm", {"max_norm": 1.0}),
    Mutant("clip", clip_value, "clip", {"max_delta": 0.5}),
    Mutant("cosine", cosine, "cosine_decay_schedule",
           {"init_value": 0.3, "decay_steps": 100, "alpha": 0.1}, schedule=True),
    Mutant("warmup", warmup, "warmup_cosine_decay_schedule",
           {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "decay_steps": 100,
            "end_value": 0.1}, schedule=True),
    Mutant("steps", steps, "piecewise_constant_schedule",
           {"init_value": 1.0, "boundaries_and_scales": {20: 0.5, 50: 0.1}}, schedule=True),
    Mutant("exponential", exponential, "exponential_decay",
           {"init_value": 0.5, "transition_steps": 10, "decay_rate": 0.9, "end_value": 0.01},
           schedule=True),
    Mutant("polynomial", polynomial, "polynomial_schedule",
           {"init_value": 1.0, "end_value": 0.1, "power": 2.0, "transition_steps": 50,
            "transition_begin": 5}, schedule=True),
    *(Mutant(*correct) for correct in searching.CORRECT),
)  # fmt: skip

# A mutant that lives, and why that is right. Everything else must die.
SURVIVORS: dict[str, str] = {
    "adam without hyperparams: mu undamped": "it is Adam with ten times the learning rate, and the "
    "learning rate was not said",
}


# The law that says most of a rule, where that is not agreement with a reference.
FIRST = {"scale_by_zoom_linesearch": "line search", "add_noise": "noise"}


def report_on(mutant: Mutant, quick: bool = False, only_likely: bool = False) -> Any:
    """The report; `quick` asks the likely laws first, and all of them only if they hold."""
    from trainkit import laws

    made = mutant.make() if mutant.schedule else mutant.make
    run = laws.check_schedule if mutant.schedule else laws.check

    def check(**more: Any) -> Any:
        if mutant.extra_args:
            more["extra_args"] = mutant.extra_args
        return run(made, like=mutant.like, hyperparams=mutant.hyperparams, claims=mutant.claims,
                   level=mutant.level, **more)  # fmt: skip

    if (quick or only_likely) and not mutant.schedule:
        first = check(laws=likely(mutant))
        if only_likely or not first.ok:
            return first
    return check()


def likely(mutant: Mutant) -> list[str]:
    """The laws of which a mutant dies, if it is not of what it was written with."""
    from trainkit.laws import TRANSFORMATION_LAWS
    from trainkit.laws.implied import implied

    claims = dict(mutant.claims or {})
    if mutant.like:
        claims |= implied(mutant.like, oracle_for(mutant.like, mutant.hyperparams).hyperparams)
    first = [FIRST.get(mutant.like or "", "oracle")] if mutant.like else []
    matrices = [x.name for x in TRANSFORMATION_LAWS if x.group == "matrices" and x.claim in claims]
    own = [x.name for x in TRANSFORMATION_LAWS if x.claim in (mutant.claims or ())]
    whole = ["purity", "memory", "state fixpoint", "donation", "hyper-parameters"]
    return [*dict.fromkeys([*first, *matrices, *own])] or whole


def runs_and_fails(code: str) -> str | None:
    """`None` if a printed program runs without the kit and ends in an error that says something."""
    from trainkit.laws.protocol import ordinary

    if "trainkit" in code.replace("# trainkit.growth", ""):
        return "it needs the kit"
    try:
        with ordinary():
            exec(compile(code, "reproducer", "exec"), {"__name__": "__main__"})
    except (NameError, SyntaxError, ImportError) as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # most end in an assertion, some in whatever JAX itself says
        return None if str(error) else "its error says nothing"
    finally:
        jax.config.update("jax_enable_x64", False)
    return "it ends without an error"


def score(mutants: list[Mutant], survivors: dict[str, str], words: list[str]) -> int:
    """Checks the mutants whose name contains one of the words (or all) and prints the score."""
    from trainkit.laws.subject import shrink

    shrink.BUDGET = 0.0  # a score needs no small counterexamples
    wanted = [w for w in words if not w.startswith("--")]
    chosen = [m for m in mutants if not wanted or any(w in m.name for w in wanted)]
    alive, programs, bad = [], 0, 0
    for mutant in chosen:
        report = report_on(mutant, quick=True)
        by = sorted({f.law for f in report.failures})
        print(f"{'killed' if by else 'ALIVE '}  {mutant.name:<55} {', '.join(by)}", flush=True)
        if not by:
            alive.append(mutant.name)
        for failure in report.failures if "--programs" in words else ():
            programs += 1
            if why := runs_and_fails(failure.reproducer):
                bad += 1
                print(f"        program of {failure.law}: {why}\n{failure.reproducer}", flush=True)
        # Programs are shared between mutants until they use up the process's memory maps.
        maps = pathlib.Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
            jax.clear_caches()
    print(f"{len(chosen) - len(alive)} of {len(chosen)} killed "
          f"({100 * (1 - len(alive) / max(len(chosen), 1)):.1f} %)")  # fmt: skip
    for name in alive:
        print(f"alive: {name}: {survivors.get(name, 'no reason known')}")
    if programs:
        print(f"{programs - bad} of {programs} printed programs fail by themselves")
    return 0 if set(alive) <= set(survivors) and not bad else 1


if __name__ == "__main__":
    sys.exit(score(MUTANTS, SURVIVORS, sys.argv[1:]))
