"""Rules and wrappers written by hand for `late_mutants`, with a word for each fault."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

tmap = jax.tree.map


def per_leaf(slots: int, step: Any) -> Any:
    """A factory of rules that do the same to every leaf: `step(t, g, p, *held) -> (u, *held)`."""

    def init(p):
        zeros = lambda: tmap(jnp.zeros_like, p)
        return jnp.zeros([], jnp.int32), *(zeros() for _ in range(slots))

    def update(g, s, p=None):
        t = s[0] + (s[0] < jnp.iinfo(jnp.int32).max)
        leaves, tree = jax.tree.flatten(g)
        rest = [tree.flatten_up_to(x) for x in (g if p is None else p, *s[1:])]
        done = []
        for x, *more in zip(leaves, *rest, strict=True):
            out = step(t, x, *more)
            out = out if isinstance(out, tuple) else (out,)
            # A second moment of a whole leaf is a number, kept in an array like the leaf.
            done.append([jnp.broadcast_to(y, x.shape).astype(x.dtype) for y in out])
        columns = zip(*done, strict=True) if done else [()] * (slots + 1)
        u, *held = (tree.unflatten(list(c)) for c in columns)
        return u, (t, *held)

    return lambda: optax.GradientTransformation(init, update)


def choose(ok: Any, a: Any, b: Any) -> Any:
    return tmap(lambda x, y: jnp.where(ok, x, y), a, b)


def lookahead(f: str = "") -> Any:
    """SGD; every five steps the slow weights go half of the way, and the fast ones back to them."""
    inner, period = optax.sgd(0.1, 0.9), 5
    a = 0.25 if f == "steps swapped" else 0.5
    if f == "a step late":
        period = 6

    def init(p):
        return jnp.zeros([], jnp.int32), tmap(jnp.copy, p), inner.init(p)

    def update(g, s, p):
        t, slow, held = s
        u, held = inner.update(g, held, p)
        t = t + 1
        due = t % period == 0
        if f == "once only":
            due = t == period
        if f == "period grows":
            due = (t == 5) | (t == 15) | (t == 30)
        new = tmap(lambda s, w, u: s + a * (w + u - s), slow, p, u)
        slow = choose(due, new, slow)
        if f != "fast ones go on":
            u = choose(due, tmap(lambda s, w: s - w, slow, p), u)
        return u, (t, slow, held)

    return lambda: optax.GradientTransformation(init, update)


def cautious(f: str = "") -> Any:
    """Adam's updates where they go downhill, made larger for those that are left out."""
    inner = optax.adam(1e-2)

    def update(g, s, p=None):
        u, s = inner.update(g, s, p)
        keep = tmap(lambda u, g: (u * g < 0).astype(u.dtype), u, g)
        if f == "keeps the wrong half":
            keep = tmap(lambda u, g: (u * g > 0).astype(u.dtype), u, g)
        if f == "mean over all leaves":
            some = jax.tree.leaves(keep)
            mean = sum(map(jnp.sum, some)) / max(sum(x.size for x in some), 1)
            return tmap(lambda u, k: u * k * some[0].dtype.type(1) / (mean + 1e-8), u, keep), s
        lift = lambda k: k.size / (jnp.sum(k) + 1.0)
        if f == "not made up for":
            lift = lambda k: 1.0
        return tmap(lambda u, k: u * k * jnp.asarray(lift(k), u.dtype), u, keep), s

    return lambda: optax.GradientTransformation(inner.init, update)


def guarded(f: str = "") -> Any:
    """Adam that ignores gradients with what is not finite, up to five in a row."""
    inner, limit = optax.adam(1e-2), 6 if f == "one too many" else 5

    def init(p):
        return jnp.zeros([], jnp.int32), inner.init(p)

    def update(g, s, p=None):
        row, held = s
        ok = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(g)]).all()
        if f == "looks at the sum":
            ok = ~jnp.isnan(sum(jnp.sum(x) for x in jax.tree.leaves(g)))
        row = jnp.where(ok, row if f == "never forgets" else 0, row + 1)
        ok = ok | (row > limit)
        if f == "zeros in place of NaN":
            u, held = inner.update(tmap(jnp.nan_to_num, g), held, p)
            return u, (row, held)
        u, new = inner.update(g, held, p)
        old = inner.init(g) if f == "starts anew" else held
        return choose(ok, u, tmap(jnp.zeros_like, u)), (row, choose(ok, new, old))

    return lambda: optax.GradientTransformation(init, update)


def accumulated(f: str = "") -> Any:
    """Adam on the weighed mean of four gradients."""
    inner, k = optax.adam(1e-2), 4

    def init(p):
        zero = jnp.zeros([], jnp.int32), jnp.zeros([])
        return *zero, tmap(jnp.zeros_like, p), inner.init(p)

    def update(g, s, p=None, *, weight=1.0, **extra):
        n, total, sums, held = s
        n = n + (1 if f != "counts what weighs nothing" else (weight > 0).astype(jnp.int32))
        total = total + weight
        scaled = lambda a, x: a + jnp.asarray(weight, x.dtype) * x
        if f == "first one lost":
            sums = tmap(lambda a, x: jnp.where(n == 1, a, scaled(a, x)), sums, g)
        else:
            sums = tmap(scaled, sums, g)
        due = n == k
        size = k if f == "divides by the number" else jnp.maximum(total, 1e-30)
        mean = tmap(lambda a: a / jnp.asarray(size, a.dtype), sums)
        if f == "last one only":
            mean = g
        u, new = inner.update(mean, held, p)
        zeros = tmap(jnp.zeros_like, u)
        keep = choose(True if f == "inner at every step" else due, new, held)
        return choose(due, u, zeros), (
            jnp.where(due, 0, n), jnp.where(due, 0.0, total),
            choose(due, tmap(jnp.zeros_like, sums), sums), keep)  # fmt: skip

    return lambda: optax.GradientTransformationExtraArgs(init, update)
