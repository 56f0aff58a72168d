"""Test problems: one small tree with many stacked gradient trajectories.

All trajectories of one precision run in one compiled program. Every law uses its own rows, so that
twenty laws cost one compilation.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name

STEPS = 30  # long enough for momentum and bias correction to have changed several-fold
SHAPES: tuple[tuple[int, ...], ...] = ((3,), (4, 3), (3,), (3,))
NAMES = ("w", "x", "y", "z", "za", "zb", "zc")  # in the order in which JAX flattens them
TWINS = (2, 3)  # two leaves of one shape, to be exchanged


class Case(NamedTuple):
    """One trajectory, with all leaves flattened and concatenated.

    Attributes:
      shapes: the shape of every leaf.
      params: [T, N], the given parameters at each step, without updates.
      grads: [T, N], the given gradients.
      follow: 1 if the updates are added to the parameters, else 0.
      pull: 1 if the gradients are those of a quadratic with `curvatures` at the updated parameters,
        else 0.
    """

    shapes: tuple[tuple[int, ...], ...]
    params: np.ndarray
    grads: np.ndarray
    follow: float = 0.0
    pull: float = 0.0


def curvatures(n: int) -> np.ndarray:
    """Second derivatives of the quadratic of trajectories with `pull`."""
    return np.linspace(0.5, 2.0, n)


def sizes(shapes: tuple[tuple[int, ...], ...]) -> list[int]:
    return [int(np.prod(s)) for s in shapes]


def offsets(shapes: tuple[tuple[int, ...], ...]) -> list[int]:
    return [0, *np.cumsum(sizes(shapes)).tolist()]


def leaves(flat: Any, shapes: tuple[tuple[int, ...], ...]) -> list[Any]:
    at = offsets(shapes)
    return [flat[a:b].reshape(s) for (a, b), s in zip(itertools.pairwise(at), shapes, strict=False)]


def tree(flat: Any, shapes: tuple[tuple[int, ...], ...]) -> Any:
    """The tree that rules see: nested for the standard shapes, a plain dict for shrunk ones."""
    parts = leaves(flat, shapes)
    if shapes == SHAPES:
        bias, kernel, one, two = parts
        return {"dense": {"bias": bias, "kernel": kernel}, "twins": (one, two)}
    return dict(zip(NAMES, parts, strict=False))


def flatten(updates: Any) -> Any:
    return jnp.concatenate([jnp.ravel(u) for u in jax.tree.leaves(updates)])


def paths(shapes: tuple[tuple[int, ...], ...]) -> list[str]:
    """The leaf path of every flat index."""
    named = jax.tree_util.tree_flatten_with_path(tree(np.zeros(sum(sizes(shapes))), shapes))[0]
    return [path_name(path) for path, x in named for _ in range(x.size)]


ODD_SHAPES: tuple[tuple[int, ...], ...] = ((), (1, 1), (2, 1, 2, 3), (5,))


def odd_shapes(seed: int) -> Case:
    """A short trajectory with leaves whose rank or size some rules treat specially."""
    rng = np.random.default_rng(seed + 1)
    n = sum(sizes(ODD_SHAPES))
    return Case(ODD_SHAPES, rng.normal(size=(4, n)) * 3, rng.normal(size=(4, n)))


def matrices(seed: int, n: int, stack: bool = False) -> Case:
    """A short trajectory of wide, tall and square matrices of n rows or columns and more.

    Also of one row, of one column, a stack of matrices of unlike size where `stack` says so, and
    square ones whose gradients have rank 1.
    """
    shapes: tuple[tuple[int, ...], ...] = (
        (n, n + 3), (n + 3, n), (n, n), (1, n + 3), (n + 3, 1), (n, n)
    )  # fmt: skip
    shapes += ((2, n, n + 1),) * stack
    rng = np.random.default_rng(seed + 3)
    grads = []
    for _ in range(4):
        gs = [rng.normal(size=s) for s in shapes]
        gs[6:] = [g * np.array([1.0, 5.0]).reshape(2, 1, 1) for g in gs[6:]]
        gs[5] = np.outer(rng.normal(size=n), rng.normal(size=n))
        grads.append(np.concatenate([g.ravel() for g in gs]))
    params = rng.normal(size=(1, sum(sizes(shapes))))
    return Case(shapes, np.broadcast_to(params, (4, params.size)), np.stack(grads))


def long(seed: int, steps: int = 400) -> Case:
    """A long trajectory, for late errors: schedules, counts, and sums that drift."""
    rng = np.random.default_rng(seed + 2)
    n = sum(sizes(SHAPES))
    params = np.broadcast_to(3 * rng.normal(size=n), (steps, n))
    drift = rng.normal(size=n)
    return Case(SHAPES, params, rng.normal(size=(steps, n)) + 0.5 * drift)


class Batch(NamedTuple):
    """Stacked trajectories and where each named one is."""

    rows: dict[str, int]
    params: np.ndarray  # [E, T, N] float64
    grads: np.ndarray  # [E, T, N]
    follow: np.ndarray  # [E]
    pull: np.ndarray  # [E]

    def case(self, row: int | str) -> Case:
        i = self.rows[row] if isinstance(row, str) else row
        return Case(
            SHAPES, self.params[i], self.grads[i], float(self.follow[i]), float(self.pull[i])
        )


SCALE = 2.0**4  # a power of two, so that scaling rounds nothing
GAPS = (0, 1, 2, 9, 10, 20)  # steps without a gradient
NAN_STEP = 7
NAN_AT = 4  # flat index: in the kernel


def permutation(rng: np.random.Generator) -> np.ndarray:
    """A permutation of the coordinates inside every leaf."""
    at = offsets(SHAPES)
    return np.concatenate([a + rng.permutation(b - a) for a, b in itertools.pairwise(at)])


def swap() -> np.ndarray:
    at = offsets(SHAPES)
    order = np.arange(at[-1])
    one, two = (order[at[i] : at[i + 1]].copy() for i in TWINS)
    order[one], order[two] = two, one
    return order


def rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(sum(sizes(SHAPES)),) * 2))[0]


def batch(seed: int, examples: int) -> Batch:
    """The named trajectories, then `examples` random ones of different magnitudes."""
    rng = np.random.default_rng(seed)
    n = sum(sizes(SHAPES))
    p = np.broadcast_to(rng.normal(size=n) + 0.5, (STEPS, n))
    g = rng.normal(size=(STEPS, n))
    order, twin, turn = permutation(rng), swap(), rotation(rng)
    nan = g.copy()
    nan[NAN_STEP, NAN_AT] = np.nan
    gaps = g.copy()
    gaps[list(GAPS)] = 0.0
    constant = np.broadcast_to(rng.normal(size=n) + np.sign(rng.normal(size=n)), (STEPS, n))
    wide = g * 10.0 ** rng.uniform(-4, 2, size=(STEPS, n))
    sparse = np.where(rng.random((STEPS, n)) < 0.2, g, 0.0)
    drift = p + np.cumsum(rng.normal(size=(STEPS, n)), axis=0)
    # name: (parameters, gradients, whether the parameters follow the updates)
    named = {
        "plain": (p, g, 0),
        "negated": (p, -g, 0),
        "scaled": (p, SCALE * g, 0),
        "swapped": (p[:, twin], g[:, twin], 0),
        "permuted": (p[:, order], g[:, order], 0),
        "rotated": (p @ turn.T, g @ turn.T, 0),
        "moved": (10 * drift, g, 0),
        "following": (p, g, 1),
        "zeros": (p, 0 * g, 0),
        "zero parameters": (0 * p, g, 0),
        "gaps": (p, gaps, 1),
        "tiny": (p, 1e-8 * g, 0),
        "wide": (drift, wide, 0),
        "constant": (p, constant, 0),
        "sparse": (100 * drift, sparse, 0),
        "bursts": (p, g * np.where(np.arange(STEPS) % 7 == 3, 50.0, 0.1)[:, None], 1),
        "nan": (p, nan, 0),
        "bowl": (p, np.broadcast_to(g[:1], g.shape), 1),
    }
    for i in range(examples):
        size = 10.0 ** rng.uniform(-6, 2)
        kind = rng.integers(3)
        gs = size * rng.normal(size=(STEPS, n))
        if kind == 1:
            gs *= rng.random((STEPS, 1)) < 0.7  # whole steps without a gradient
        if kind == 2:
            gs *= 10.0 ** rng.uniform(-2, 2, size=(1, n))  # coordinates of unlike size
        ps = 10.0 ** rng.uniform(-2, 2) * rng.normal(size=(STEPS, n))
        follow = int(rng.integers(2))
        named[f"random {i}"] = (np.broadcast_to(ps[:1], ps.shape) if follow else ps, gs, follow)
    rows = {name: i for i, name in enumerate(named)}
    ps, gs, fs = zip(*named.values(), strict=True)
    pull = np.array([name == "bowl" for name in named], np.float64)
    return Batch(rows, np.stack(ps), np.stack(gs), np.array(fs, np.float64), pull)


def rounded(b: Batch, dtype: Any) -> Batch:
    """The same batch with every value representable in `dtype`, so that references see it too."""
    kind = jnp.dtype(dtype)
    return b._replace(
        params=b.params.astype(kind).astype(np.float64),
        grads=b.grads.astype(kind).astype(np.float64),
    )
