"""Matrix rules by hand: Muon and SOAP as researchers write them, each with one fault to plant."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

tmap = jax.tree.map


def muon(lr=1e-2, beta=0.95, fault=""):
    """Muon by a singular value decomposition, for matrices; SGD with momentum for the rest."""

    def step(m):
        if m.ndim != 2:
            return -lr * m
        rows, columns = m.shape
        if fault == "one map too many":
            m = m.at[0].mul(2.0)
        u, s, v = jnp.linalg.svd(m, full_matrices=False)
        if fault == "keeps the singular values":
            u = u * s / s.max()
        if fault == "transposed shape factor":
            rows, columns = columns, rows
        factor = 1.0 if fault == "no shape factor" else max(1.0, columns / rows) ** 0.5
        return -lr * factor * u @ v

    def update(g, m, p=None):
        m = tmap(lambda m, g: beta * m + (1 - beta) * g, m, g)
        return tmap(step, m), m

    return optax.GradientTransformation(lambda p: tmap(jnp.zeros_like, p), update)


class Soap(NamedTuple):
    count: Any
    mu: Any
    nu: Any
    left: Any
    right: Any
    basis: Any


def soap(lr=1e-2, b1=0.9, b2=0.9, every=3, fault=""):
    """SOAP for matrices alone, with eigenbases from `eigh`."""

    def init(p):
        zeros = lambda: tmap(jnp.zeros_like, p)
        square = lambda axis: tmap(lambda x: jnp.zeros((x.shape[axis],) * 2), p)
        eyes = tmap(lambda x: tuple(jnp.eye(n) for n in x.shape), p)
        return Soap(jnp.zeros([], jnp.int32), zeros(), zeros(), square(0), square(1), eyes)

    def one(t, g, m, v, left, right, basis):
        now = t % every == 0
        new_left, new_right = b2 * left + g @ g.T, b2 * right + g.T @ g
        if fault == "statistics of refreshes only":
            new_left = jnp.where(now, new_left, left)
            new_right = jnp.where(now, new_right, right)
        eigen = [jnp.linalg.eigh(x)[1] for x in (new_left, new_right)]
        ql, qr = (jnp.where(now, new, old) for new, old in zip(eigen, basis, strict=True))
        if fault == "basis drifts":
            ql = ql * 1.001
        if fault == "momentum stays in the old basis":
            m = b1 * m + (1 - b1) * ql.T @ g @ qr
            top = m
        else:
            m = b1 * m + (1 - b1) * g
            top = ql.T @ m @ qr
        v = b2 * v + (1 - b2) * (ql.T @ g @ qr) ** 2
        u = top / (jnp.sqrt(v) + 1e-8)
        out = u @ qr.T if fault == "out of one side" else ql @ u @ qr.T
        return -lr * out, m, v, new_left, new_right, (ql, qr)

    def update(g, s, p=None):
        leaves, tree = jax.tree.flatten(g)
        held = [tree.flatten_up_to(x) for x in s[1:]]
        done = [one(s.count, x, *h) for x, *h in zip(leaves, *held, strict=True)]
        u, *new = (tree.unflatten(list(xs)) for xs in zip(*done, strict=True))
        return u, Soap(optax.safe_increment(s.count), *new)

    return optax.GradientTransformation(init, update)


def soap_claims(fault=""):
    return {
        "orthogonal": True,
        "transposes": True,
        "basis": True,
        "stale": lambda every: soap(every=every, fault=fault),
    }
