"""PSGD with dense factors, and Dion."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def psgd(bug=None):
    """Whitening by dense symmetric factors, fitted with a normalised step."""

    def factory(lr=1e-2, fit=0.1, beta=0.9):
        def init(params):
            def leaf(p):
                if p.ndim != 2:
                    return (jnp.ones(p.shape, f32),)
                return (jnp.eye(p.shape[0], dtype=f32), jnp.eye(p.shape[1], dtype=f32))

            make = (
                (lambda p: jnp.empty(p.shape, f32))
                if bug == "uninit"
                else (lambda p: jnp.zeros(p.shape, f32))
            )
            return (
                tmap(make, params),
                [leaf(p) for p in jax.tree.leaves(params)],
                jnp.zeros((), jnp.int32),
            )

        def fitted(q, a, step):
            gap = q @ a @ q - jnp.eye(len(q), dtype=q.dtype)
            gap = gap / (jnp.linalg.norm(gap) + 1e-12)
            q = q - step * 0.5 * (gap @ q + q @ gap)
            return (q + q.T) / 2

        def update(grads, state, params=None):
            mu, factors, k = state
            k = k + 1
            mu = tmap(lambda m, g: beta * m + (1 - beta) * g.astype(f32), mu, grads)
            gs, tree = jax.tree.flatten(grads)
            out, new = [], []
            for g, m, qs in zip(gs, jax.tree.leaves(mu), factors, strict=True):
                dtype, g = g.dtype, g.astype(f32)
                m = m / (1 - beta**k)
                if g.size == 0:
                    out.append(g.astype(dtype))
                elif len(qs) == 1:
                    gap = qs[0] ** 2 * g * g - 1
                    qs = (qs[0] * (1 - fit * gap / (1 + jnp.abs(gap))),)
                    out.append((-lr * qs[0] ** 2 * m).astype(dtype))
                else:
                    ql, qr = qs
                    ql = fitted(ql, g @ qr @ qr @ g.T / g.shape[1], fit)
                    qr = fitted(qr, g.T @ ql @ ql @ g / g.shape[0], fit)
                    if bug == "diagonal":
                        ql = jnp.diag(jnp.diag(ql))
                    u = ql @ ql @ m @ qr @ qr
                    if bug == "clip_entries":
                        u = jnp.clip(u, -1, 1)
                    out.append((-lr * u).astype(dtype))
                    qs = (ql, qr)
                new.append(qs)
            return jax.tree.unflatten(tree, out), (mu, new, k)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "psgd",
    psgd,
    {
        "uninit": "momentum in uninitialised memory",
        "diagonal": "off-diagonal part of the left factor thrown away",
        "clip_entries": "matrix updates clipped entry by entry",
    },
    claims={"orthogonal": True},
)


class DionState(NamedTuple):
    buffer: Any
    basis: Any


SEEN = []


def dion(bug=None):
    """Low rank with error feedback; plain SGD for what is no matrix."""

    def factory(learning_rate=0.01, mu=0.95, rank=4, seed=0):
        def init(params):
            leaves = jax.tree.leaves(params)
            if bug == "global_seed":
                SEEN.append(0)
                key = jax.random.key(len(SEEN))
            else:
                key = jax.random.key(seed)
            basis = []
            for i, p in enumerate(leaves):
                if p.ndim == 2:
                    k = jax.random.fold_in(key, i)
                    basis.append(jax.random.normal(k, (p.shape[1], min(rank, *p.shape)), f32))
                else:
                    basis.append(jnp.zeros((), f32))
            return DionState(zeros(params, f32), basis)

        def update(grads, state, params=None):
            gs, tree = jax.tree.flatten(grads)
            out, new_b, new_q = [], [], []
            for g, b, q in zip(gs, jax.tree.leaves(state.buffer), state.basis, strict=True):
                dtype, g = g.dtype, g.astype(f32)
                if g.ndim != 2 or g.size == 0:
                    out.append((-learning_rate * g).astype(dtype))
                    new_b.append(b)
                    new_q.append(q)
                    continue
                b = b + g
                p, _ = jnp.linalg.qr(b @ q)
                r = b.T @ p
                b = b - (1 - mu) * p @ r.T
                q = r / (jnp.linalg.norm(r, axis=0, keepdims=True) + 1e-8)
                m, n = g.shape
                size = (m / n) ** 0.5 if bug == "transposed" else (n / m) ** 0.5
                if bug == "unit_rows":
                    q = r / (jnp.linalg.norm(r, axis=1, keepdims=True) + 1e-8)
                out.append((-learning_rate * size * p @ q.T).astype(dtype))
                new_b.append(b.astype(dtype) if bug == "buffer_dtype" else b)
                new_q.append(q)
            un = functools.partial(jax.tree.unflatten, tree)
            return un(out), DionState(un(new_b), new_q)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "dion",
    dion,
    {
        "global_seed": "the first basis depends on how often init was called",
        "transposed": "factor sqrt(in/out) for a kernel [in, out]",
        "unit_rows": "rows instead of columns made unit",
        "buffer_dtype": "the buffer becomes bfloat16 after the first step",
    },
    claims={"shape factor": lambda i, o: (o / i) ** 0.5},
)
