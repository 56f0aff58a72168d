"""The degree of a slot within a transformation, measured by running the transformation.

One state class can hold different quantities. A trace holds gradients in momentum SGD, normalised
updates behind RMSProp (degree 0) and trust-scaled updates in LARS. Adam's ν is a maximum of |g| in
Adamax (degree 1). So the table of slots is not enough. The transformation is run on tiny leaves,
once with gradients g and parameters p, and once with f·g and c·p. The ratio of both slots gives the
powers of f and c.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import named_leaves
from trainkit._core.rounds import outer_step
from trainkit.growth.opt_state.slots import Slot, as_slot

PyTree = Any
Record = dict[str, tuple[Any, dict[str, np.ndarray]]]

_STEPS = 7
_SIZE = 3
# Gradients are far above every ε. Parameters are above Adafactor's floor of 1e-3, but so small that
# coupled weight decay does not change the result.
_PARAM = 5e-3
_TOLERANCE = 0.03  # of a factor: integer powers of factors between 0.6 and 1.7 lie well apart


def degrees_in_place(
    tx: optax.GradientTransformation,
    params: PyTree,
    record: Callable[[PyTree, PyTree], Record],
) -> dict[str, Slot]:
    """Slot name -> `Slot` with measured powers, for slots that scale by integer powers.

    Slots without an entry use the table: those that stay 0 or do not scale by powers (behind a
    value clip), and all slots if `tx` needs more than gradients and parameters.

    Args:
      tx: the transformation.
      params: arrays or shapes; only ranks and dtypes matter.
      record: (state, shapes of a state) -> the slots of the state.
    """
    small = jax.tree.map(tiny, params)
    rng = np.random.default_rng(0)
    draw = lambda make: jax.tree.map(lambda x: make(x.shape).astype(x.dtype), small)

    def of_axes(shape: tuple[int, ...]) -> np.ndarray:
        """A product of one factor for each axis, as in a growth; factored moments preserve it."""
        drawn = [rng.uniform(0.6, 1.7, n) ** (1 / len(shape)) for n in shape]
        return functools.reduce(np.multiply.outer, drawn, np.ones(()))

    f, c = draw(of_axes), draw(of_axes)
    p = draw(lambda shape: _PARAM * rng.choice([-1.0, 1.0], shape))
    sign = draw(lambda shape: rng.choice([-1.0, 1.0], shape))
    times = lambda a, b: jax.tree.map(np.multiply, a, b)

    update = jax.jit(lambda g, s, q: tx.update(g, s, q))

    def run(gradients: PyTree, parameters: PyTree) -> Record:
        with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
            state = _after_steps(tx, update, gradients, parameters)
            return record(state, jax.eval_shape(tx.init, parameters))

    @functools.cache
    def tiled() -> Record:
        return run(*(jax.tree.map(lambda x: np.tile(x, (2,) * x.ndim), t) for t in (sign, p)))

    try:
        plain, scaled = run(sign, p), run(times(sign, f), times(c, p))
    except Exception:
        # The rule needs a loss value, larger leaves, …: use the table.
        return {}

    factors = {name: (named_leaves(f)[name], named_leaves(c)[name]) for name in named_leaves(f)}
    found = {}
    for where, (kind, before) in plain.items():
        slot = as_slot(kind)
        if not slot.per_leaf and not slot.lead:
            powers = _powers(before, scaled[where][1], factors)
            if powers is not None:
                e, d, a, b = powers
                entries = _entries(before, tiled()[where][1]) - a - b if a or b else 0.0
                found[where] = slot._replace(
                    gradient=float(e),
                    weight=float(d),
                    norm_gradient=float(a),
                    norm_weight=float(b),
                    entries=float(entries),
                )
    return found


def _after_steps(
    tx: optax.GradientTransformation, update: Callable[..., Any], gradients: PyTree, params: PyTree
) -> PyTree:
    """The state after a few updates, and after the outer step that long rounds end with."""
    state = tx.init(params)
    for step in range(_STEPS):
        # All entries have one size, so that norms scale by the root mean square of f.
        size = np.float32(1.0 + 0.25 * step)
        updates, state = update(jax.tree.map(lambda g, n=size: g * n, gradients), state, params)
    return outer_step(tx.update, jax.tree.map(jnp.add, params, updates), state)[1]


def tiny(leaf: Any) -> np.ndarray:
    """A tiny leaf of the same rank, for running a transformation."""
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    shape = (_SIZE,) * len(leaf.shape) if floating else leaf.shape
    return np.zeros(shape, np.float32 if floating else leaf.dtype)


def _entries(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> int:
    """The power of √(entries) in a slot, measured on leaves that are tiled twice along each axis.

    It is 1 for a norm, and 0 for a root mean square or a ratio of norms.
    """
    powers = [
        2 * np.log(abs(np.ravel(after[name])[0] / np.ravel(x)[0])) / (np.ndim(x) * np.log(2))
        for name, x in before.items()
        if np.ndim(x) and np.ravel(x)[0] and np.ravel(after[name])[0]
    ]
    return round(float(np.median(powers))) if powers else 0


def _powers(
    before: dict[str, np.ndarray],
    after: dict[str, np.ndarray],
    factors: dict[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[int, int, int, int] | None:
    """(e, d, a, b) with after/before = f^e · c^d · rms(f)^a · rms(c)^b, if there are such."""
    rows, ratios = [], []
    for name, x in before.items():
        if name not in factors or np.shape(x) != factors[name][0].shape:
            continue
        y, (f, c) = np.asarray(after[name], float), factors[name]
        x = np.asarray(x, float)
        if not x.size or not np.all(x) or not np.all(y / x > 0):
            continue
        rms = [np.full(x.size, np.log(np.sqrt(np.mean(v.astype(float) ** 2)))) for v in (f, c)]
        rows.append(np.stack([np.log(f).ravel(), np.log(c).ravel(), *rms], 1))
        ratios.append(np.log(y / x).ravel())
    if not rows:
        return None
    matrix, ratio = np.concatenate(rows), np.concatenate(ratios)
    elementwise = range(-1, 3)
    # Try element-wise powers, then powers of norms, then a constant factor (from a global clip).
    for a, b, free in [
        (0, 0, False),
        *((a, b, False) for a, b in itertools.product(range(-2, 3), repeat=2)),
        (0, 0, True),
    ]:
        for e, d in itertools.product(elementwise, repeat=2):
            rest = ratio - matrix @ np.array([e, d, a, b], float)
            rest = rest - rest.mean() * free
            if np.abs(rest).max() < _TOLERANCE:
                return e, d, a, b
    return None
