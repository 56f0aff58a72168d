"""What the laws of matrix rules measure.

Each function is pasted as it stands into reproducers, with those that it calls, so that a law and
its program measure the same. They may use JAX, NumPy and each other, and nothing else.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def turn(rng: Any, n: int) -> Any:
    """A random orthogonal matrix."""
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def matrix(rng: Any, shape: Any, values: Any) -> Any:
    """A random matrix with these singular values."""
    k = len(values)
    return turn(rng, shape[0])[:, :k] @ np.diag(values) @ turn(rng, shape[1])[:k]


def uneven(rng: Any, shape: Any) -> Any:
    """A random matrix whose singular values differ, so that it has a basis of its own."""
    return rng.normal(size=shape) * 2.0 ** -(np.arange(shape[1]) % 5)


def run(tx: Any, gs: Any, dtype: str = "float32", name: str = "kernel") -> Any:
    """The updates of one matrix of zeros, called `name`, with these gradients."""
    params = {name: jnp.zeros(gs[0].shape, dtype)}
    state, step, out = tx.init(params), jax.jit(tx.update), []
    for g in gs:
        u, state = step({name: jnp.asarray(g, dtype)}, state, params)
        out.append(np.asarray(u[name]).astype(np.float64))
    return out


def apart(xs: Any, ys: Any) -> float:
    """The largest distance between two runs at one step, relative to the second."""
    longest = max(np.linalg.norm(y) for y in ys)
    gaps = [np.linalg.norm(x - y) / (np.linalg.norm(y) + 1e-3 * longest + 1e-30)
            for x, y in zip(xs, ys, strict=True)]  # fmt: skip
    return float(np.nan_to_num(max(gaps), nan=np.inf))


def turned(tx: Any, shape: Any, sides: str, dtype: str = "float32") -> float:
    """How far f(U G V) is from U f(G) V, with U or V the identity unless it is among the sides.

    From the third step on: in the eigenbasis of the first gradient the others are rounding.
    """
    rng = np.random.default_rng(0)
    u = turn(rng, shape[0]) if "U" in sides else np.eye(shape[0])
    v = turn(rng, shape[1]) if "V" in sides else np.eye(shape[1])
    gs = [uneven(rng, shape) for _ in range(8)]
    moved = run(tx, [u @ g @ v for g in gs], dtype)
    return apart(moved[2:], [u @ x @ v for x in run(tx, gs, dtype)[2:]])


def transposed(tx: Any, shape: Any, factor: float, dtype: str = "float32") -> float:
    """How far f(Gᵀ) is from f(G)ᵀ times the factor."""
    rng = np.random.default_rng(1)
    gs = [uneven(rng, shape) for _ in range(8)]
    moved = run(tx, [g.T for g in gs], dtype)
    return apart(moved[2:], [factor * x.T for x in run(tx, gs, dtype)[2:]])


def shaken(tx: Any, shape: Any, digit: float) -> float:
    """How far f(G) moves by relative errors of ± digit in the entries of G."""
    rng = np.random.default_rng(1)
    gs = [uneven(rng, shape) for _ in range(8)]
    moved = run(tx, [g * (1 + digit * rng.choice([-1, 1], shape)) for g in gs])
    return apart(moved[2:], run(tx, gs)[2:])


def spectrum(tx: Any, shape: Any, values: Any, dtype: str = "float32") -> Any:
    """The singular values of the third update, for a constant gradient that has these values.

    NaN for an update that is not finite.
    """
    g = matrix(np.random.default_rng(2), shape, values)
    u = run(tx, [g] * 3, dtype)[-1]
    if not np.isfinite(u).all():
        return np.full(min(shape), np.nan)
    return np.linalg.svd(u, compute_uv=False)


def stretch(tx: Any, shape: Any, dtype: str = "float32") -> float:
    """The root mean square of the singular values, where those of the gradient are equal."""
    return float(np.sqrt(np.mean(spectrum(tx, shape, np.ones(min(shape)), dtype) ** 2)))


def staleness(make: Any, every: int, phase: int) -> float:
    """The mean cosine of the updates of `make(every)` and `make(1)`, once gradients repeat.

    The gradients of a window repeat, up to their sign; that at the phase is small.
    """
    rng = np.random.default_rng(3)
    shrink = np.diag(3.0 ** -np.arange(5))
    window = [rng.normal(size=(5, 5)) @ shrink @ turn(rng, 5) for _ in range(every)]
    window[phase] = 0.03 * rng.normal(size=(5, 5))
    gs = [window[t % every] * rng.choice([-1, 1]) for t in range(10 * every)]
    pairs = zip(run(make(every), gs)[-2 * every :], run(make(1), gs)[-2 * every :], strict=True)
    cosines = [np.sum(x * y) / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-30) for x, y in pairs]
    return float(np.mean(cosines))


def refreshes(tx: Any, steps: int) -> Any:
    """{path in the state: the steps at which it changed}, of what changes now and then.

    What changed at every step, or never after the first, is left out.
    """
    rng = np.random.default_rng(7)
    params = {"kernel": jnp.zeros((5, 5))}
    state, step, seen = tx.init(params), jax.jit(tx.update), []
    for _ in range(steps):
        g = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), "float32"), params)
        before = jax.tree.leaves(state)
        _, state = step(g, state, params)
        after = jax.tree_util.tree_leaves_with_path(state)
        seen.append({jax.tree_util.keystr(path): np.array_equal(np.asarray(x), np.asarray(y))
                     for (path, x), y in zip(after, before, strict=True)
                     if jnp.issubdtype(jnp.result_type(x), jnp.inexact)})  # fmt: skip
    changed = {name: [t + 1 for t in range(steps) if not seen[t].get(name, True)]
               for name in seen[-1]}  # fmt: skip
    return {name: at for name, at in changed.items() if 0 < len(at) < steps - 1}


def returned(tx: Any) -> float:
    """The mean cosine of −update and the average gradient, once other gradients turned the basis.

    Those are large, of random directions, and cancel in pairs, so that they turn a basis and leave
    the average as it was. Then the gradients are zero, and momentum alone moves the matrix; without
    momentum, the cosine with the last gradient that was not zero.
    """
    cosines = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        mean = rng.normal(size=(5, 5))
        gs = [mean + 0.1 * rng.normal(size=(5, 5)) for _ in range(20)]
        for _ in range(10):
            large = 8 * rng.normal(size=(5, 5))
            gs += [mean + large, mean - large]
        us = run(tx, [*gs, *[0 * mean] * 20])
        u, along = (us[-1], mean) if np.any(us[-1]) else (us[len(gs) - 1], gs[-1])
        cosines.append(-np.sum(u * along) / (np.linalg.norm(u) * np.linalg.norm(along) + 1e-30))
    return float(np.mean(cosines))


def bases(tx: Any, words: str, steps: int) -> Any:
    """{path: largest entry of QᵀQ − 1} of the square matrices of the state with such a path."""
    import re

    rng = np.random.default_rng(4)
    params = {"kernel": jnp.zeros((5, 5))}
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        g = {"kernel": jnp.asarray(rng.normal(size=(5, 5)), "float32")}
        _, state = step(g, state, params)
    named = [(jax.tree_util.keystr(path), np.asarray(x, np.float64))
             for path, x in jax.tree_util.tree_leaves_with_path(state)
             if jnp.shape(x)[-2:] == (5, 5)]  # fmt: skip
    return {name: float(np.abs(np.swapaxes(x, -1, -2) @ x - np.eye(5)).max())
            for name, x in named if re.search(words, name)}  # fmt: skip


def joined(tx: Any, name: str, parts: int) -> float:
    """How far a leaf of matrices side by side moves from how they move one by one."""
    rng = np.random.default_rng(5)
    gs = [[(i + 1) * rng.normal(size=(4, 6)) for i in range(parts)] for _ in range(4)]
    whole = run(tx, [np.concatenate(g, axis=1) for g in gs], name=name)
    alone = [run(tx, [g[i] for g in gs], name=f"{i}") for i in range(parts)]
    return apart(whole, [np.concatenate(us, axis=1) for us in zip(*alone, strict=True)])


def leaf_apart(tx: Any, other: Any, params: Any, at: int) -> float:
    """How far one leaf of a tree moves from how another rule moves it alone."""
    leaves, tree = jax.tree.flatten(params)
    alone = lambda xs: jax.tree.unflatten(tree, [x if i == at else {} for i, x in enumerate(xs)])
    rng = np.random.default_rng(6)
    one, two = tx.init(params), other.init(alone(leaves))
    us, vs = [], []
    for _ in range(4):
        gs = [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in leaves]
        u, one = tx.update(jax.tree.unflatten(tree, gs), one, params)
        v, two = other.update(alone(gs), two, alone(leaves))
        us.append(np.asarray(jax.tree.leaves(u)[at], np.float64).reshape(-1, 1))
        vs.append(np.asarray(jax.tree.leaves(v)[0], np.float64).reshape(-1, 1))
    return apart(us, vs)


CALLS: dict[Any, list[Any]] = {
    matrix: [turn], turned: [turn, uneven, run, apart], transposed: [uneven, run, apart],
    spectrum: [turn, matrix, run], stretch: [turn, matrix, run, spectrum],
    staleness: [turn, run], refreshes: [], returned: [run], bases: [], joined: [run, apart],
    leaf_apart: [apart],
}  # fmt: skip


def program(measure: Any, *lines: str) -> str:
    """A reproducer: the measure with all that it calls, and the lines that use it."""
    parts = [*CALLS[measure], measure]
    return "\n".join(["import numpy as np\n", *map(inspect.getsource, parts), *lines])
