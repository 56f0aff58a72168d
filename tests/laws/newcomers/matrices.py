"""Muon with AdamW, SOAP, Shampoo, NorMuon and Scion, as their users write them."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def newton_schulz(x, a, b, c, steps):
    """Any x of two axes to about U Vᵀ."""
    tall = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -1, -2) if tall else x
    x = x / (jnp.linalg.norm(x) + 1e-8)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return jnp.swapaxes(x, -1, -2) if tall else x


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Slot:
    m: Any
    v: Any  # None for a matrix


def muon_adamw(bug=None):
    """Muon for what has two axes, at AdamW's size (Moonlight), and AdamW for the rest."""

    def factory(lr=2e-3, momentum=0.9, b2=0.99, decay=0.1, eps=1e-8):
        def start(p):
            return Slot(jnp.zeros(p.shape, f32), None if p.ndim == 2 else jnp.zeros(p.shape, f32))

        def matrix(g, slot, p):
            m = momentum * slot.m + g
            size = 0.2 * (min(m.shape) if bug == "shape_min" else max(m.shape)) ** 0.5
            u = newton_schulz(m, 2.0, -1.5, 0.5, 15) if m.size else m
            if bug == "decay_scaled":
                return -lr * size * (u + decay * p), Slot(m, None)
            return -lr * (size * u + decay * p), Slot(m, None)

        def vector(g, slot, p, t):
            m = momentum * slot.m + (1 - momentum) * g
            v = b2 * slot.v + (1 - b2) * g * g
            mh = m / (1 - momentum**t)
            vh = v if bug == "adam_bias" else v / (1 - b2**t)
            return -lr * (mh / (jnp.sqrt(vh) + eps) + decay * p), Slot(m, v)

        def init(params):
            return {"step": jnp.zeros([], jnp.int32), "slots": tmap(start, params)}

        def update(grads, state, params):
            t = state["step"] + 1
            gs, tree = jax.tree.flatten(grads)
            slots = tree.flatten_up_to(state["slots"])
            out = []
            for g, slot, p in zip(gs, slots, jax.tree.leaves(params), strict=True):
                g32, p32 = g.astype(f32), p.astype(f32)
                u, slot = matrix(g32, slot, p32) if g.ndim == 2 else vector(g32, slot, p32, t)
                out.append((u.astype(g.dtype), slot))
            news = {"step": t, "slots": tree.unflatten([s for _, s in out])}
            return tree.unflatten([u for u, _ in out]), news

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "muon_adamw",
    muon_adamw,
    {
        "shape_min": "sized by the short side",
        "adam_bias": "second moment of the vectors without bias correction",
        "decay_scaled": "decay of matrices times the shape factor",
    },
    claims=lambda make: {
        "orthogonal": True,
        "transposes": True,
        "shape factor": lambda n_in, n_out: 0.2 * max(n_in, n_out) ** 0.5,
        "decoupled decay": 2e-3 * 0.1,
        "scope": {
            "matrix|row": make,
            "": optax.adamw(2e-3, b1=0.9, b2=0.99, weight_decay=0.1),
        },
    },
)


def soap_nd(bug=None):
    """SOAP on the kernels, its basis found by QR of the statistics times the old basis."""

    def factory(lr=1e-3, b1=0.9, b2=0.9, keep=0.8, every=3):
        def square(p):
            return p.ndim == 2 and min(p.shape) > 1

        def init(params):
            def leaf(p):
                s = {"m": jnp.zeros(p.shape, f32), "v": jnp.zeros(p.shape, f32)}
                if square(p):
                    for side, n in zip(("left", "right"), p.shape, strict=True):
                        s[side] = {"gg": jnp.zeros((n, n), f32), "Q": jnp.eye(n, dtype=f32)}
                return s

            return {"k": jnp.zeros([], jnp.int32), "leaves": tmap(leaf, params)}

        def turned(x, s, back=False):
            left, right = s["left"]["Q"], s["right"]["Q"]
            return left @ x @ right.T if back else left.T @ x @ right

        def refreshed(s, first):
            new = dict(s)
            for side in ("left", "right"):
                gg, q = s[side]["gg"], s[side]["Q"]
                # The first time all directions, later one step of the power iteration.
                better = jax.lax.cond(
                    first,
                    lambda gg, q: jnp.linalg.eigh(gg)[1],
                    lambda gg, q: jnp.linalg.qr(gg @ q)[0],
                    gg,
                    q,
                )
                if bug == "left_once" and side == "left":
                    better = jnp.where(first, better, q)
                new[side] = {"gg": gg, "Q": better}
            if bug != "m_stays":
                new["m"] = turned(turned(s["m"], s, back=True), new)
            return new

        def one(g, s, k):
            if not square(g):
                m = b1 * s["m"] + (1 - b1) * g
                v = b2 * s["v"] + (1 - b2) * g * g
                u = m / (1 - b1**k) / (jnp.sqrt(v / (1 - b2**k)) + 1e-8)
                return -lr * u, {"m": m, "v": v}
            s = dict(s)
            for side, gg in (("left", g @ g.T), ("right", g.T @ g)):
                s[side] = {"gg": keep * s[side]["gg"] + (1 - keep) * gg, "Q": s[side]["Q"]}
            s = jax.lax.cond(
                (k - 1) % every == 0, lambda s: refreshed(s, k == 1), lambda s: dict(s), s
            )
            h = turned(g, s)
            s["m"] = b1 * s["m"] + (1 - b1) * h
            s["v"] = b2 * s["v"] + (1 - b2) * h * h
            u = s["m"] / (1 - b1**k) / (jnp.sqrt(s["v"] / (1 - b2**k)) + 1e-8)
            return -lr * turned(u, s, back=True), s

        def update(grads, state, params=None):
            k = state["k"] + 1
            gs, tree = jax.tree.flatten(grads)
            pairs = [
                one(g.astype(f32), s, k)
                for g, s in zip(gs, tree.flatten_up_to(state["leaves"]), strict=True)
            ]
            out = [u.astype(g.dtype) for g, (u, _) in zip(gs, pairs, strict=True)]
            return tree.unflatten(out), {"k": k, "leaves": tree.unflatten([s for _, s in pairs])}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "soap_nd",
    soap_nd,
    {
        "m_stays": "the first moment stays in the old basis at a refresh",
        "left_once": "the left basis is refreshed once only",
    },
    claims=lambda make: {
        "basis": "Q",
        "stale": lambda every: make(every=every),
        "hyperparameters": ["every", "keep"],
    },
)


def shampoo_2018(bug=None):
    """Gupta, Koren and Singer's: a root for every axis, none for scalars."""

    def factory(learning_rate=0.1, epsilon=1e-4):
        def init(params):
            return tmap(
                lambda p: (
                    tuple(epsilon * jnp.eye(n, dtype=jnp.result_type(p, f32)) for n in p.shape)
                    or (jnp.asarray(epsilon, jnp.result_type(p, f32)),)
                ),
                params,
            )

        def root(h, power):
            w, v = jnp.linalg.eigh(h)
            return (v * jnp.maximum(w, epsilon) ** -power) @ v.T

        def one(g, hs):
            dtype, g = g.dtype, g.astype(hs[0].dtype)
            if g.size == 0:
                return g.astype(dtype), hs
            if g.ndim == 0:
                h = hs[0] + g * g
                return (-learning_rate * g / jnp.sqrt(h)).astype(dtype), (h,)
            u, new = g, []
            for axis, h in enumerate(hs):
                seen = u if bug == "preconditioned_statistics" else g
                flat = jnp.moveaxis(seen, axis, 0).reshape(g.shape[axis], -1)
                h = h + flat @ flat.T
                if bug == "epsilon_each_step":
                    h = h + epsilon * jnp.eye(len(h), dtype=h.dtype)
                new.append(h)
                r = root(h, 1 / (2 * g.ndim))
                u = jnp.moveaxis(jnp.tensordot(r, u, axes=(1, axis)), 0, axis)
            return (-learning_rate * u).astype(dtype), tuple(new)

        def update(grads, state, params=None):
            gs, tree = jax.tree.flatten(grads)
            both = [one(g, h) for g, h in zip(gs, tree.flatten_up_to(state), strict=True)]
            return tree.unflatten([u for u, _ in both]), tree.unflatten([h for _, h in both])

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "shampoo_2018",
    shampoo_2018,
    {
        "preconditioned_statistics": "the right statistics see the gradient times the left root",
        "epsilon_each_step": "epsilon is added at every step",
    },
    like="shampoo",
    h={"learning_rate": 0.1, "epsilon": 1e-4},
)


def normuon(bug=None):
    def factory(lr=0.01, b1=0.95, b2=0.95, eps=1e-8):
        ns = functools.partial(newton_schulz, a=3.4445, b=-4.7750, c=2.0315, steps=5)
        adam = optax.adam(lr)

        def is_matrix(params):
            return tmap(lambda p: p.ndim == 2, params)

        def init(params):
            side = 1 if bug == "axis" else 0
            return (
                zeros(params),
                tmap(lambda p: jnp.zeros(p.sum(side).shape, p.dtype), params),
            )

        def update(grads, state, params=None):
            def leaf(g, m, v):
                m = b1 * m + (1 - b1) * g
                o = ns(m) if m.size else m
                side = 1 if bug == "axis" else 0  # kernels are [in, out]: a neuron is a column
                v = b2 * v + (1 - b2) * jnp.mean(o * o, axis=side)
                o = o / (jnp.sqrt(jnp.expand_dims(v, side)) + eps)
                if bug == "no_match":
                    size = 0.2 * max(o.shape) ** 0.5
                else:
                    size = 0.2 * o.size**0.5 / (jnp.linalg.norm(o) + eps)
                return -lr * size * o, m, v

            ms, vs = state
            gs, tree = jax.tree.flatten(grads)
            out = [
                leaf(*x)
                for x in zip(gs, tree.flatten_up_to(ms), tree.flatten_up_to(vs), strict=True)
            ]
            u, m, v = zip(*out, strict=True) if out else ((), (), ())
            return tree.unflatten(u), (tree.unflatten(m), tree.unflatten(v))

        mine = optax.GradientTransformation(init, update)
        other = lambda params: tmap(lambda p: p.ndim != 2, params)
        return optax.chain(optax.masked(mine, is_matrix), optax.masked(adam, other))

    return factory


CASES.add(
    "normuon",
    normuon,
    {
        "axis": "averaged over the outputs, not the inputs",
        "no_match": "not scaled by the norm that the division gave it",
    },
    like="normuon",
    h={"learning_rate": 0.01},
)


def scion(bug=None):
    def factory(lr=0.01, beta=0.9):
        def update(grads, d, params):
            new = tmap(lambda d, g: beta * d + (1 - beta) * g, d, grads)
            used = d if bug == "late" else new

            def lmo(x):
                if x.size == 0:
                    return x
                if x.ndim < 2:
                    return x / (jnp.sqrt(jnp.mean(x * x)) + 1e-8)
                window = math.prod(x.shape[:-2])  # a convolution's; all of it is one matrix
                flat = x.reshape(-1, x.shape[-1])
                flat = newton_schulz(flat, 3.4445, -4.7750, 2.0315, 5)
                return flat.reshape(x.shape) * (x.shape[-1] / x.shape[-2]) ** 0.5 / window

            return tmap(lambda p, x: -lr * p - lr * lmo(x), params, used), new

        return optax.GradientTransformation(zeros, update)

    return factory


CASES.add(
    "scion",
    scion,
    {"late": "moves along the average of before this gradient"},
    like="scion",
    h={"learning_rate": 0.01, "beta": 0.9},
)
