"""Wrong variants of rules that search, draw noise or clip examples, and the same without fault.

Part of the suite in `tests.laws.mutants`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

tmap = jax.tree.map


def flat(tree: Any) -> Any:
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])


def unflat(x: Any, like: Any) -> Any:
    leaves, at = [], 0
    for y in jax.tree.leaves(like):
        leaves.append(x[at : at + y.size].reshape(y.shape).astype(y.dtype))
        at += y.size
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


class Memory(NamedTuple):
    count: Any
    x: Any
    g: Any
    s: Any
    y: Any


def lbfgs(memory: int = 10, fault: str = "", seen: Any = None) -> optax.GradientTransformation:
    """The two loops of Nocedal 1980, on one vector; pairs stand in order, the newest last."""
    if fault == "memory of one":
        memory = 1

    def init(params):
        if not jax.tree.leaves(params):
            return optax.EmptyState()
        one = lambda: 0 * flat(params)
        many = lambda: jnp.zeros((memory, one().size), one().dtype)
        return Memory(jnp.zeros([], jnp.int32), one(), one(), many(), many())

    def update(grads, state, params):
        if not jax.tree.leaves(grads):
            return grads, state
        x, g, old = flat(params), flat(grads), state.count > 0
        push = lambda many, new: jnp.roll(many, -1, 0).at[-1].set(jnp.where(old, new, 0 * new))
        s, y = push(state.s, x - state.x), push(state.y, g - state.g)
        if fault == "differences of the gradients reversed":
            y = push(state.y, state.g - g)
        dot = s[-1] @ y[-1]
        order = range(memory) if fault == "oldest pair first" else range(memory)[::-1]
        q, alphas = g, {}
        rho = lambda i: jnp.where(s[i] @ y[i] == 0, 0, 1 / (s[i] @ y[i]))
        for i in order:
            alphas[i] = rho(i) * (s[i] @ q)
            q = q - alphas[i] * (s[i] if fault == "s for y" else y[i])
        square = y[-1] @ y[-1]
        gamma = jnp.where(square > 0, dot / square, 1)
        if fault == "gamma of the longer step":
            gamma = jnp.where(dot != 0, s[-1] @ s[-1] / dot, 1)
        first = jnp.minimum(1, 1 / jnp.linalg.norm(g))
        if fault == "first step not shortened":
            first = 1.0
        gamma = jnp.where(old, gamma, first).astype(q.dtype)
        if fault == "memory leaks across masked leaves" and not isinstance(gamma, jax.core.Tracer):
            gamma, seen["gamma"] = seen.get("gamma", gamma), gamma
        q = q if fault == "no gamma" else gamma * q
        for i in reversed(order):
            beta = rho(i) * (y[i] @ q)
            q = q + (alphas[i] if fault == "second loop without beta" else alphas[i] - beta) * s[i]
        return unflat(q, grads), Memory(optax.safe_increment(state.count), x, g, s, y)

    return optax.GradientTransformation(init, update)


def backtracking(
    most: int = 15, slope_rtol: float = 0.3, fault: str = ""
) -> optax.GradientTransformationExtraArgs:
    """Armijo's search: η ← 1.5 η, at most 1, then 0.8 η until the loss falls by enough."""
    fewer = 0.5 if fault == "halves" else 0.8
    more = 1.0 if fault == "never grows again" else 1.5

    def init(params):
        return optax.ScaleByScheduleState(
            jnp.ones([], jax.tree.leaves(params)[0].dtype if jax.tree.leaves(params) else "float32")
        )

    def update(updates, state, params, *, value, grad, value_fn, **extra):
        if not jax.tree.leaves(updates):
            return updates, state
        slope = flat(updates) @ flat(grad)
        slope = -slope if fault == "slope with the other sign" else slope
        at = lambda rate: value_fn(tmap(lambda p, u: p + rate.astype(u.dtype) * u, params, updates))
        bound = lambda rate: value + slope_rtol * rate * slope
        start = jnp.minimum(more * state.count, 1.0)
        if fault == "last step forgotten":
            start = jnp.ones_like(state.count)

        def enough(rate):
            if fault == "accepts the first":
                return jnp.array(True)
            if fault == "only finite":
                return jnp.isfinite(at(rate))
            return at(rate) <= bound(rate)

        def go(carry):
            return carry[0] * fewer, carry[1] + 1

        keep = lambda carry: ~enough(carry[0]) & (carry[1] < most)
        rate, _ = jax.lax.while_loop(keep, go, (start.astype(state.count.dtype), jnp.array(0)))
        if fault == "one reduction too many":
            rate = rate * jnp.asarray(fewer, rate.dtype)
        return tmap(lambda u: rate.astype(u.dtype) * u, updates), optax.ScaleByScheduleState(rate)

    return optax.GradientTransformationExtraArgs(init, update)


def in_place_of_zoom(fault: str) -> optax.GradientTransformationExtraArgs:
    """Steps that lower the loss, and are not what a search for small curvature gives."""
    armijo = backtracking(slope_rtol=1e-4)
    if fault == "a small step each time":
        return optax.with_extra_args_support(optax.scale(1e-3))
    if fault == "uphill":
        return optax.chain(armijo, optax.scale(-1.0))
    if fault == "turns the direction":
        return optax.chain(armijo, optax.clip(0.05))
    return armijo  # "decrease alone"


def noise(eta: float = 0.01, gamma: float = 0.55, fault: str = "") -> optax.GradientTransformation:
    def init(params):
        return optax.AddNoiseState(jnp.zeros([], jnp.int32), jax.random.key(3))

    def update(grads, state, params=None):
        count = optax.safe_increment(state.count)
        key, here = jax.random.split(state.rng_key)
        variance = eta / (count**gamma if fault != "constant" else 1.0)
        deviation = variance if fault == "variance for deviation" else jnp.sqrt(variance)
        leaves, tree = jax.tree.flatten(grads)
        keys = list(jax.random.split(here, max(len(leaves), 1)))
        if fault == "the same in every leaf":
            keys = [here] * len(leaves)
        draw = jax.random.normal
        if fault == "uniform":
            draw = lambda k, s, d: jax.random.uniform(k, s, d, -(3**0.5), 3**0.5)
        if fault == "one number a leaf":
            draw = lambda k, s, d: jnp.broadcast_to(jax.random.normal(k, (), d), s)
        if fault == "never below zero":
            draw = lambda k, s, d: abs(jax.random.normal(k, s, d))
        noisy = [
            x + deviation.astype(x.dtype) * draw(k, x.shape, x.dtype)
            for k, x in zip(keys, leaves, strict=False)
        ]
        kept = state.rng_key if fault == "the same at every step" else key
        return tree.unflatten(noisy), optax.AddNoiseState(count, kept)

    return optax.GradientTransformation(init, update)


def private(clip: float = 1.0, noise: float = 0.0, fault: str = "") -> optax.GradientTransformation:
    """Clips each example's gradient, adds noise to the sum, and divides by their number."""

    def init(params):
        return optax.contrib.DifferentiallyPrivateAggregateState(jax.random.key(3))

    def update(grads, state, params=None):
        leaves, tree = jax.tree.flatten(grads)
        if not leaves:
            return grads, state
        n = leaves[0].shape[0]
        lengths = lambda xs: jnp.sqrt(sum(jnp.sum(x.reshape(n, -1) ** 2, 1) for x in xs))
        cut = lambda x, size: x * jnp.minimum(1, clip / jnp.where(size > 0, size, 1)).reshape(
            -1, *[1] * (x.ndim - 1)
        ).astype(x.dtype)  # fmt: skip
        if fault == "each leaf by itself":
            out = [cut(x, lengths([x])) for x in leaves]
        elif fault == "by value":
            out = [jnp.clip(x, -clip, clip) for x in leaves]
        elif fault == "no clipping":
            out = leaves
        elif fault == "all to the bound":
            out = [cut(x, jnp.minimum(lengths(leaves), clip)) for x in leaves]
            out = [x * (clip / jnp.maximum(lengths(out), 1e-30)).reshape(
                -1, *[1] * (x.ndim - 1)).astype(x.dtype) for x in out]  # fmt: skip
        else:
            out = [cut(x, lengths(leaves)) for x in leaves]
        out = [x.sum(0) for x in out]
        if fault == "clips the mean":
            mean = [x.mean(0) for x in leaves]
            size = optax.global_norm(mean)
            out = [n * x * jnp.minimum(1, clip / jnp.where(size > 0, size, 1)) for x in mean]
            out = [x.astype(y.dtype) for x, y in zip(out, leaves, strict=True)]
        key, *keys = jax.random.split(state.rng_key, len(out) + 1)
        share = 1 if fault in ("a sum", "noise not shared") else n
        if noise:
            size = noise * (1.0 if fault == "noise without the bound" else clip)
            after = n if fault == "noise not shared" else 1
            drawn = [size * jax.random.normal(k, x.shape, x.dtype)
                     for k, x in zip(keys, out, strict=True)]  # fmt: skip
            out = [x / after + e for x, e in zip(out, drawn, strict=True)]
        out = [x / share for x in out]
        kept = optax.contrib.DifferentiallyPrivateAggregateState(key)
        return tree.unflatten(out), kept

    return optax.GradientTransformation(init, update)


def muon(**more: Any) -> optax.GradientTransformation:
    return optax.contrib.scale_by_muon(weight_dimension_numbers=axes, **more)


def axes(params: Any) -> Any:
    return tmap(lambda _: optax.contrib.MuonDimensionNumbers(), params)


SEARCH = {"max_backtracking_steps": 15, "slope_rtol": 0.3}
NOISE = {"eta": 0.01, "gamma": 0.55, "key": 3}
PRIVATE = {"l2_norm_clip": 2.0, "noise_multiplier": 0.0, "key": 3}
ZOOM = {"max_linesearch_steps": 20, "curv_rtol": 0.1}

CORRECT: tuple[tuple[str, Any, str, dict[str, Any]], ...] = (
    ("lbfgs", lbfgs, "scale_by_lbfgs", {}),
    ("backtracking", backtracking, "scale_by_backtracking_linesearch", SEARCH),
    ("noise", noise, "add_noise", NOISE),
    ("private", lambda: private(2.0), "differentially_private_aggregate", PRIVATE),
    ("private noise", lambda: private(2.0, 0.7), "differentially_private_aggregate",
     PRIVATE | {"noise_multiplier": 0.7}),
    ("scale_by_muon", muon, "optax.scale_by_muon", {"weight_dimension_numbers": axes}),
)  # fmt: skip


def faults() -> Iterator[tuple[str, str, Any, str, dict[str, Any]]]:
    """(rule, fault, factory, like, hyperparams)"""
    for f in ("memory of one", "differences of the gradients reversed", "oldest pair first",
              "s for y", "gamma of the longer step", "first step not shortened", "no gamma",
              "second loop without beta"):  # fmt: skip
        yield "lbfgs", f, lambda f=f: lbfgs(fault=f), "scale_by_lbfgs", {}
    held: dict[str, Any] = {}
    f = "memory leaks across masked leaves"
    yield "lbfgs", f, lambda f=f: lbfgs(fault=f, seen=held), "scale_by_lbfgs", {}
    for f in ("halves", "never grows again", "slope with the other sign", "last step forgotten",
              "accepts the first", "only finite", "one reduction too many"):  # fmt: skip
        make = lambda f=f: backtracking(fault=f)
        yield "backtracking", f, make, "scale_by_backtracking_linesearch", SEARCH
    for f in ("a small step each time", "uphill", "turns the direction", "decrease alone"):
        make = lambda f=f: in_place_of_zoom(f)
        yield "zoom", f, make, "scale_by_zoom_linesearch", ZOOM
    for f in ("constant", "variance for deviation", "the same in every leaf", "uniform",
              "one number a leaf", "never below zero", "the same at every step"):  # fmt: skip
        yield "noise", f, lambda f=f: noise(fault=f), "add_noise", NOISE
    for f in ("each leaf by itself", "by value", "no clipping", "all to the bound",
              "clips the mean", "a sum"):  # fmt: skip
        make = lambda f=f: private(2.0, fault=f)
        yield "private", f, make, "differentially_private_aggregate", PRIVATE
    for f in ("noise not shared", "noise without the bound"):
        make = lambda f=f: private(2.0, 0.7, fault=f)
        h = PRIVATE | {"noise_multiplier": 0.7}
        yield "private", f, make, "differentially_private_aggregate", h
    h = {"weight_dimension_numbers": axes}
    for f, more in {"four steps": {"ns_steps": 4}, "no nesterov": {"nesterov": False},
                    "scaled by its product": {"adaptive": True},
                    "spectral": {"preconditioning": "spectral"}}.items():  # fmt: skip
        yield "scale_by_muon", f, lambda more=more: muon(**more), "optax.scale_by_muon", h
