"""Adam and its relatives."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class AdamModule:
    """An Equinox-like module."""

    t: Any
    first: Any
    second: Any


def adamw(bug=None):
    def factory(learning_rate=1e-3, b1=0.9, b2=0.95, eps=1e-6, weight_decay=0.05):
        def init(params):
            first = zeros(params)
            second = first if bug == "shared" else zeros(params)
            if bug == "params_in_state":
                second = first = tmap(lambda p: p * 0, params)
            return AdamModule(jnp.zeros((), jnp.int32), first, second)

        def update(grads, state, params):
            t = state.t + 1
            second_b = 0.999 if bug == "b2_fixed" else b2
            first = tmap(lambda m, g: b1 * m + (1 - b1) * g, state.first, grads)
            second = tmap(lambda v, g: second_b * v + (1 - second_b) * g * g, state.second, grads)

            def step(m, v, p):
                c1 = (1 - b1 ** t.astype(f32)).astype(m.dtype)
                n = state.t.astype(f32) if bug == "v_count" else t.astype(f32)
                c2 = (1 - second_b ** jnp.maximum(n, 1)).astype(m.dtype)
                if bug == "eps_inside":
                    u = (m / c1) / jnp.sqrt(v / c2 + eps)
                elif bug == "eps_uncorrected":
                    u = m / c1 / (jnp.sqrt(v) + eps) * jnp.sqrt(c2)
                else:
                    u = (m / c1) / (jnp.sqrt(v / c2) + eps)
                decay = weight_decay * learning_rate if bug == "decay_twice" else weight_decay
                if bug == "decay_vectors_not" and p.ndim < 2:
                    decay = 0.0
                return -learning_rate * (u + decay * p)

            return tmap(step, first, second, params), AdamModule(t, first, second)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "adamw",
    adamw,
    {
        "shared": "both moments are one buffer after init",
        "b2_fixed": "b2= has no effect",
        "v_count": "second moment corrected with the last count",
        "eps_inside": "eps under the root",
        "eps_uncorrected": "eps added before the correction",
        "decay_twice": "decay times the rate twice",
        "decay_vectors_not": "a hidden mask: vectors are not decayed",
    },
    like="adamw",
    h={"learning_rate": 1e-3, "b1": 0.9, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.05},
)


def adam_plain(bug=None):
    """The same without a name to compare with: what do the laws see by themselves?"""

    def factory(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-8):
        history = []

        def init(params):
            if bug == "host_list":
                return {
                    "i": jnp.zeros((), jnp.int32),
                    "m": zeros(params),
                    "v": zeros(params),
                    "log": (),
                }
            return {"i": jnp.zeros((), jnp.int32), "m": zeros(params), "v": zeros(params)}

        def update(grads, state, params=None):
            i = state["i"] + 1
            if bug == "host_branch" and float(optax.global_norm(grads)) > 1e4:
                grads = zeros(grads)
            if bug == "host_history":
                history.append(1)
            if bug == "ignored_beta2":
                b2 = 0.999
            else:
                b2 = beta2
            m = tmap(lambda m, g: beta1 * m + (1 - beta1) * g, state["m"], grads)
            v = tmap(lambda v, g: b2 * v + (1 - b2) * g * g, state["v"], grads)
            rate = lr
            if bug == "host_history":
                rate = lr / len(history)

            def step(m, v):
                c1, c2 = (1 - beta1**i).astype(m.dtype), (1 - b2**i).astype(m.dtype)
                if bug == "eps_missing":
                    return -rate * (m / c1) / jnp.sqrt(v / c2)
                if bug == "leaf_mean":
                    return -rate * (m / c1) / (jnp.sqrt(jnp.mean(v) / c2) + eps)
                return -rate * (m / c1) / (jnp.sqrt(v / c2) + eps)

            new = {"i": i, "m": m, "v": v}
            if bug == "host_list":
                new["log"] = (*state["log"], i)
            if bug == "count_float":
                new["i"] = i.astype(f32)
            return tmap(step, m, v), new

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "adam_plain",
    adam_plain,
    {
        "host_list": "the state grows by an entry a step",
        "host_branch": "a branch on a value",
        "host_history": "a counter in a closure",
        "ignored_beta2": "beta2= has no effect",
        "eps_missing": "0/0 for a gradient that was always 0",
        "leaf_mean": "one denominator a leaf",
        "count_float": "the count becomes float32 after a step",
    },
    claims={"element-wise": True, "odd": True},
)


def stale_adam(bug=None):
    """The denominator is refreshed every few steps, from all gradients in between."""

    class State(NamedTuple):
        ticks: Any
        m: Any
        bag: Any
        scale: Any

    def factory(lr=1e-2, beta=0.9, every=5, eps=1e-8):
        def init(params):
            return State(
                jnp.zeros((), jnp.int32),
                zeros(params, f32),
                zeros(params, f32),
                tmap(lambda p: jnp.ones(p.shape, f32), params),
            )

        def update(grads, state, params=None):
            due = state.ticks % every == 0
            if bug == "never_again":
                due = state.ticks == 0
            m = tmap(lambda m, g: beta * m + (1 - beta) * g, state.m, grads)
            if bug == "lost":
                bag = tmap(lambda b, g: jnp.where(due, b + g.astype(f32) ** 2, b), state.bag, grads)
            else:
                bag = tmap(lambda b, g: b + g.astype(f32) ** 2, state.bag, grads)
            scale = tmap(lambda s, b: jnp.where(due, 1 / (jnp.sqrt(b) + eps), s), state.scale, bag)
            u = tmap(
                lambda m, s, g: (-lr * m * jnp.minimum(s, 1e3)).astype(g.dtype), m, scale, grads
            )
            return u, State(state.ticks + 1, m, bag, scale)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "stale_adam",
    stale_adam,
    {
        "lost": "gradients between refreshes are lost",
        "never_again": "refreshed once only",
    },
    claims=lambda f: {"stale": lambda every: f(every=every), "element-wise": True},
)


def adabelief(bug=None):
    @flax.struct.dataclass
    class S:
        step_number: Any
        m: Any
        s: Any

    def factory(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16):
        def init(params):
            return S(jnp.zeros((), jnp.int32), zeros(params, f32), zeros(params, f32))

        def update(grads, st, params=None):
            k = st.step_number + 1
            m = tmap(lambda m, g: b1 * m + (1 - b1) * g.astype(f32), st.m, grads)
            ref = st.m if bug == "old_mean" else m
            root = 0.0 if bug == "root_missing" else eps_root
            s = tmap(
                lambda s, g, m: b2 * s + (1 - b2) * (g.astype(f32) - m) ** 2 + root,
                st.s,
                grads,
                ref,
            )
            u = tmap(
                lambda m, s, g: (
                    -learning_rate * m / (1 - b1**k) / (jnp.sqrt(s / (1 - b2**k)) + eps)
                ).astype(g.dtype),
                m,
                s,
                grads,
            )
            return u, S(k, m, s)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "adabelief",
    adabelief,
    {
        "old_mean": "the deviation from the mean before this gradient",
    },
    like="adabelief",
    h={"learning_rate": 1e-3},
)


def amsgrad(bug=None):
    def factory(learning_rate=1e-2, b1=0.9, b2=0.99, eps=1e-8):
        def init(params):
            z = lambda: zeros(params, f32)
            return [z(), z(), z()]

        def update(grads, state, params=None):
            m, v, top = state
            g32 = tmap(lambda g: g.astype(f32), grads)
            m = tmap(lambda m, g: b1 * m + (1 - b1) * g, m, g32)
            v = tmap(lambda v, g: b2 * v + (1 - b2) * g * g, v, g32)
            top = tmap(jnp.maximum, v, top)
            if bug == "v_replaced":
                v = top
            used = v if bug == "max_unused" else top
            u = tmap(
                lambda m, v, g: (-learning_rate * m / (jnp.sqrt(v) + eps)).astype(g.dtype),
                m,
                used,
                grads,
            )
            return u, [m, v, top]

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "amsgrad",
    amsgrad,
    {
        "v_replaced": "the maximum becomes the average",
        "max_unused": "the maximum is kept and not used",
    },
    like="amsgrad",
    h={"learning_rate": 1e-2, "b2": 0.99},
)
