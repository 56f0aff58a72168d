"""The matrix rules of `late_mutants`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tests.laws.late_rules import per_leaf
from tests.laws.mutants import Mutant

tmap = jax.tree.map
root = jnp.sqrt
USUAL = (3.4445, -4.7750, 2.0315)


def orthogonal(x: Any, steps: int = 5, abc: Any = USUAL, by: str = "frobenius") -> Any:
    a, b, c = abc
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / ((jnp.linalg.norm(x) if by == "frobenius" else jnp.abs(x).max()) + 1e-8)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def corrected(b: float, t: Any, x: Any) -> Any:
    return x / (1 - b ** t.astype(x.dtype))


def muon(f="", consistent=None, decay=0.0):
    """Jordan's, with his momentum; AdamW for what is no matrix."""

    def step(t, g, p, m, v):
        if g.ndim != 2:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            rate = 1e-2 if f != "rate of the others" else 2e-2
            return -rate * corrected(0.9, t, m) / (root(corrected(0.999, t, v)) + 1e-8), m, v
        old, m = m, 0.95 * m + 0.05 * g
        top = 0.95 * (old if f == "nesterov from the old momentum" else m) + 0.05 * g
        if f == "no nesterov":
            top = m
        abc = (3.4445, -4.7750, 2.3015) if f == "digits swapped" else USUAL
        o = orthogonal(
            top, 3 if f == "three iterations" else 5, abc,
            "largest" if f == "divided by the largest entry" else "frobenius",
        )  # fmt: skip
        if f == "rows made equal":
            o = o / jnp.linalg.norm(o, axis=1, keepdims=True)
        if f == "squares turned" and g.shape[0] == g.shape[1]:
            o = o.T
        i, k = g.shape
        size = max(1, k / i) ** 0.5 if consistent is None else consistent * max(i, k) ** 0.5
        if f == "shape turned":
            size = max(1, i / k) ** 0.5
        if f == "no consistent factor":
            size = max(i, k) ** 0.5
        pull = decay * p * (size if f == "decay by shape" else 1)
        return -1e-2 * (size * o + pull), m, v

    return per_leaf(2, step)


def scion(f=""):
    def step(t, g, p, d):
        d = 0.9 * d + 0.1 * g
        if g.ndim < 2:
            length = root(jnp.sum(d * d) if f == "length of vectors" else jnp.mean(d * d))
            u = d / (length + 1e-8)
        else:
            i, k = g.shape[-2:]
            window = max(g.size // (i * k), 1)
            size = (i / k if f == "shape turned" else k / i) ** 0.5 / window
            u = size * orthogonal(d.reshape(-1, k)).reshape(d.shape)
        return -1e-2 * ((0 if f == "not drawn in" else p) + u), d

    return per_leaf(1, step)


def soap(f="", every=3):
    """SOAP as its authors': the first gradient starts the bases alone, and power iterations."""

    def init(p):
        zeros = lambda: tmap(jnp.zeros_like, p)
        square = lambda make: tmap(
            lambda x: tuple(make(n) for n in x.shape) if x.ndim == 2 else (), p)  # fmt: skip
        return (jnp.zeros([], jnp.int32), zeros(), zeros(),
                square(lambda n: jnp.zeros((n, n))), square(jnp.eye))  # fmt: skip

    def one(t, g, m, v, grams, bases):
        b1 = b2 = 0.95
        first = t == 0
        now = jnp.maximum(t, 1)
        into = lambda x, q: q[0].T @ x @ q[1] if q else x
        out = lambda x, q: q[0] @ x @ q[1].T if q else x
        squares = (g @ g.T, g.T @ g) if grams else ()
        if f == "grams of the momentum" and grams:
            squares = (m @ m.T + 1e-12 * g @ g.T, m.T @ m + 1e-12 * g.T @ g)
        if f == "statistics of refreshes only":
            due = first | (t % every == 0)
            grams = tuple(
                jnp.where(due, b2 * a + (1 - b2) * x, a)
                for a, x in zip(grams, squares, strict=True)
            )
        else:
            grams = tuple(b2 * a + (1 - b2) * x for a, x in zip(grams, squares, strict=True))
        begun = tuple(jnp.linalg.eigh(a)[1][:, ::-1] for a in grams)
        bases = tuple(jnp.where(first, b, q) for b, q in zip(begun, bases, strict=True))
        new_m = b1 * m + (1 - b1) * g
        seen = g if f == "squares before the turn" else into(g, bases)
        new_v = b2 * v + (1 - b2) * seen**2
        used = now + 1 if f == "corrected one ahead" else now
        top = corrected(b1, used, into(new_m, bases))
        u = out(top / (root(corrected(b2, used, new_v)) + 1e-8), bases)
        if f == "left of one side" and bases:
            u = bases[0] @ (top / (root(corrected(b2, used, new_v)) + 1e-8))
        m, v = jnp.where(first, m, new_m), jnp.where(first, v, new_v)
        due = ~first & (t % every == 0)
        turned = []
        for axis, (a, q) in enumerate(zip(grams, bases, strict=True)):
            order = jnp.argsort(-jnp.diag(q.T @ a @ q))
            if f != "second moment not sorted":
                v = jnp.where(due, jnp.take(v, order, axis), v)
            new = jnp.linalg.qr(a @ q[:, order])[0]
            turned.append(q if f == "never turned again" else jnp.where(due, new, q))
        return -1e-2 * jnp.where(first, 0 * u, u), m, v, grams, tuple(turned)

    def update(g, s, p=None):
        leaves, tree = jax.tree.flatten(g)
        held = [tree.flatten_up_to(x) for x in s[1:]]
        done = [one(s[0], x, *h) for x, *h in zip(leaves, *held, strict=True)]
        u, *new = (tree.unflatten(list(xs)) for xs in zip(*done, strict=True))
        return u, (optax.safe_increment(s[0]), *new)

    return lambda: optax.GradientTransformation(init, update)


def shampoo(f="", every=1):
    def inverse(h, order):
        w, q = jnp.linalg.eigh(h)
        exponent = {"half as root": -1.0, "one exponent": -order / 2}.get(f, -0.5) / order
        return (q * jnp.maximum(w, 1e-4) ** exponent) @ q.T

    def init(p):
        return jnp.zeros([], jnp.int32), tmap(
            lambda x: tuple((1e-4 * jnp.eye(n), jnp.eye(n)) for n in x.shape), p)  # fmt: skip

    def one(t, g, held):
        u, new = g, []
        due = t % every == 0
        for i, (h, r) in enumerate(held):
            rest = [a for a in range(g.ndim) if a != i]
            if f == "same side twice" and g.ndim == 2 and g.shape[0] == g.shape[1]:
                rest = [1]
            grown = h + jnp.tensordot(g, g, (rest, rest))
            if f == "epsilon at every step":
                grown = grown + 1e-4 * jnp.eye(len(h))
            if f == "halved every time":
                grown = (h + grown) / 2
            r = jnp.where(due, inverse(grown, g.ndim), r)
            if f == "lost between refreshes":
                grown = jnp.where(due, grown, h)
            if f == "root of the step before":
                u = jnp.moveaxis(jnp.tensordot(held[i][1], u, (1, i)), 0, i)
            else:
                u = jnp.moveaxis(jnp.tensordot(r, u, (1, i)), 0, i)
            new.append((grown, r))
        if f == "length of the gradient":
            u = u * jnp.linalg.norm(g) / (jnp.linalg.norm(u) + 1e-30)
        return -1e-2 * u, tuple(new)

    def update(g, s, p=None):
        leaves, tree = jax.tree.flatten(g)
        done = [one(s[0], x, h) for x, h in zip(leaves, tree.flatten_up_to(s[1]), strict=True)]
        u, new = ([d[i] for d in done] for i in (0, 1))
        return tree.unflatten(u), (optax.safe_increment(s[0]), tree.unflatten(new))

    return lambda: optax.GradientTransformation(init, update)


def normuon(f=""):
    def step(t, g, p, m, v):
        if g.ndim != 2:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            return -1e-2 * corrected(0.9, t, m) / (root(corrected(0.999, t, v)) + 1e-8), m, v
        m = 0.95 * m + 0.05 * g
        o = orthogonal(m)
        seen = m if f == "moment of the momentum" else o
        mean = jnp.mean(seen * seen, axis=1 if f == "by inputs" else 0, keepdims=True)
        v = 0.95 * v + 0.05 * jnp.broadcast_to(mean, v.shape)
        o = o / (root(v) + 1e-8)
        size = 0.2 * g.size**0.5 / (jnp.linalg.norm(o) + 1e-30)
        if f == "length not restored":
            size = 0.2
        return -1e-2 * size * o, m, v

    return per_leaf(2, step)


def adam_mini(f=""):
    def step(t, g, p, m, v):
        along = (0,) if g.ndim == 2 else tuple(range(max(g.ndim - 1, 1)))[: g.ndim]
        if f == "by inputs" and g.ndim == 2:
            along = (1,)
        power = (jnp.max if f == "the largest" else jnp.mean)(g * g, axis=along, keepdims=True)
        if f == "one for the leaf":
            power = jnp.mean(g * g)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * jnp.broadcast_to(power, g.shape)
        return -1e-3 * corrected(0.9, t, m) / (root(corrected(0.999, t, v)) + 1e-8), m, v

    return per_leaf(2, step)


def mars(f=""):
    def step(t, g, p, m, v, last):
        sign = -1 if f == "away from the last" else 1
        c = g + sign * 0.025 * 0.95 / 0.05 * (g - jnp.where(t == 1, g, last))
        if f != "not cut":
            c = c / jnp.maximum(1.0, root(jnp.sum(c * c)))
        m, v = 0.95 * m + 0.05 * c, 0.99 * v + 0.01 * c * c
        u = corrected(0.95, t, m) / (root(corrected(0.99, t, v)) + 1e-8)
        return -1e-3 * u, m, v, c if f == "remembers what it made" else g

    return per_leaf(3, step)


def adafactor(f=""):
    """Adafactor's second moment of matrices with both sides of 128 and more, and whole ones."""

    def step(t, g, p, v, r, c):
        beta = 1 - t.astype(jnp.float32) ** -0.8
        squares = g * g + 1e-30
        u = None
        if g.ndim == 2 and min(g.shape) >= 128:
            r = beta * r + (1 - beta) * jnp.mean(squares, axis=1, keepdims=True)
            c = beta * c + (1 - beta) * jnp.mean(squares, axis=0, keepdims=True)
            norm = 1.0 if f == "not normalised" else jnp.mean(r)
            if f == "normalised by columns":
                norm = jnp.mean(c) ** 2
            u = g / root(r * c / norm)
        else:
            v = beta * v + (1 - beta) * squares
            u = g / root(v)
        if not (f == "large ones not clipped" and g.ndim == 2 and min(g.shape) >= 128):
            u = u / jnp.maximum(1.0, root(jnp.mean(u * u)))
        size = jnp.maximum(root(jnp.mean(p * p)), 1e-3)
        return -1e-2 * size * u, v, r, c

    return per_leaf(3, step)


def parted(f=""):
    """Muon that takes a leaf called qkv for three matrices side by side."""

    def split(path, x):
        if not path or path[-1].key != "qkv":
            return [x]
        axis = 0 if f == "cut along the other axis" and x.shape[0] % 3 == 0 else 1
        if f == "taken for one":
            return [x]
        return list(jnp.split(x, 2 if f == "cut in two" else 3, axis=axis))

    base = muon()()

    def update(g, s, p=None):
        cut = lambda tree: jax.tree_util.tree_map_with_path(split, tree)
        u, s = base.update(cut(g), s, cut(g if p is None else p))
        join = lambda xs: jnp.concatenate(xs, axis=1)
        whole = lambda xs: join(xs) if len(xs) > 1 else xs[0]
        return tmap(whole, u, is_leaf=lambda x: isinstance(x, list)), s

    init = lambda p: base.init(jax.tree_util.tree_map_with_path(split, p))
    return lambda: optax.GradientTransformation(init, update)


def halves(f=""):
    """Muon for matrices and SGD for the rest, by a partition."""

    def label(p):
        row = lambda x: f == "rows are vectors" and x.ndim == 2 and x.shape[0] == 1
        deep = lambda x: f == "stacks are matrices" and x.ndim > 2
        kind = lambda x: "muon" if (x.ndim == 2 and not row(x)) or deep(x) else "sgd"
        return tmap(kind, p)

    flat = lambda x: x.reshape(-1, x.shape[-1])
    turn = lambda g, p: tmap(lambda x: -0.1 * orthogonal(flat(x)).reshape(x.shape), g)
    rules = {"muon": optax.stateless(turn), "sgd": optax.sgd(0.1)}
    return lambda: optax.partition(rules, label)


def stacked(f=""):
    """Muon of a stack: layer by layer, or of all its rows in one matrix."""

    def make(layers):
        def step(path, x):
            n = layers.get("^layers", 0) if path and "layers" in str(path[0]) else 0
            if x.ndim - n != 2:
                return -0.1 * x
            if n and f == "rows of all layers":
                return -0.1 * orthogonal(x.reshape(-1, x.shape[-1])).reshape(x.shape)
            if n and f == "divided by one length":
                x = x / jnp.linalg.norm(x)
                return -0.1 * jax.vmap(lambda y: 1.5 * y - 0.5 * y @ y.T @ y)(x)
            return -0.1 * (jax.vmap(orthogonal)(x) if n else orthogonal(x))

        def update(g, s, p=None):
            return jax.tree_util.tree_map_with_path(step, g), s

        return optax.GradientTransformation(lambda p: (), update)

    return make


SLOW = {"learning_rate": 1e-2}
TURN = optax.stateless(lambda g, p: tmap(lambda x: -0.1 * orthogonal(x), g))


def matrices() -> tuple[list[Mutant], list[Mutant]]:
    """The wrong rules, and the same without a fault."""
    named: dict[str, tuple[Any, str | None, Any, list[str]]] = {
        "muon": (muon, "muon", SLOW,
                 ["nesterov from the old momentum", "no nesterov", "digits swapped",
                  "three iterations", "divided by the largest entry", "rows made equal",
                  "squares turned", "shape turned", "rate of the others"]),
        "muon of consistent rms": (lambda f="": muon(f, consistent=0.2), "muon",
                                   SLOW | {"consistent_rms": 0.2}, ["no consistent factor"]),
        "decayed muon": (lambda f="": muon(f, decay=0.1), "muon", SLOW | {"weight_decay": 0.1},
                         ["decay by shape"]),
        "scion": (scion, "scion", SLOW, ["length of vectors", "shape turned", "not drawn in"]),
        "soap": (soap, "soap", SLOW | {"precondition_frequency": 3},
                 ["grams of the momentum", "squares before the turn", "corrected one ahead",
                  "left of one side", "never turned again", "second moment not sorted"]),
        "shampoo": (shampoo, "shampoo", SLOW,
                    ["half as root", "one exponent", "same side twice", "epsilon at every step",
                     "halved every time", "root of the step before", "length of the gradient"]),
        "shampoo every third": (lambda f="": shampoo(f, 3), "shampoo", SLOW | {"every": 3},
                                ["lost between refreshes"]),
        "normuon": (normuon, "normuon", SLOW,
                    ["moment of the momentum", "by inputs", "length not restored"]),
        "adam_mini": (adam_mini, "adam_mini", {"learning_rate": 1e-3},
                      ["by inputs", "the largest", "one for the leaf"]),
        "mars": (mars, "mars", {"learning_rate": 1e-3},
                 ["away from the last", "not cut", "remembers what it made"]),
        "adafactor": (adafactor, "adafactor", SLOW,
                      ["not normalised", "normalised by columns", "large ones not clipped"]),
    }  # fmt: skip
    jordan = {"orthogonal": True, "transposes": True, "shape factor": "sqrt(max(1, out/in))"}
    claimed: dict[str, tuple[Any, Any, list[str]]] = {
        "muon by claims": (
            lambda f="": (muon(f), jordan),
            None, ["divided by the largest entry", "rows made equal", "squares turned",
                   "shape turned"]),
        "soap by claims": (
            lambda f="": (soap(f), {"orthogonal": True, "stale": lambda n: soap(f, n)()}),
            None, ["statistics of refreshes only", "left of one side", "never turned again"]),
        "shampoo by claims": (
            lambda f="": (shampoo(f), {"orthogonal": True, "transposes": True,
                                       "stale": lambda n: shampoo(f, n)()}),
            None, ["lost between refreshes", "same side twice"]),
        "fused": (lambda f="": (parted(f), {"fused": {"qkv": 3}}), None,
                  ["cut in two", "taken for one"]),
        "scope": (lambda f="": (halves(f), {"scope": {"matrix|row": TURN, "": optax.sgd(0.1)}}),
                  None, ["rows are vectors", "stacks are matrices"]),
        "stacked": (lambda f="": (lambda: stacked(f)({}), {"stacked": stacked(f)}), None,
                    ["rows of all layers", "divided by one length"]),
    }  # fmt: skip
    wrong = [Mutant(f"{n}: {f}", make(f), like, h)
             for n, (make, like, h, faults) in named.items() for f in faults]  # fmt: skip
    right = [Mutant(n, make(), like, h) for n, (make, like, h, _) in named.items()]
    for n, (made, _, faults) in claimed.items():
        for f in faults:
            make, claims = made(f)
            wrong.append(Mutant(f"{n}: {f}", make, None, None, claims))
        make, claims = made()
        right.append(Mutant(n, make, None, None, claims))
    return wrong, right
