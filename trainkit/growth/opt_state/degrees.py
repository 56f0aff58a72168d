"""What a slot's degree is where it stands, found by asking the transformation itself.

One state class means different things in different places: a trace holds gradients in momentum SGD,
normalised updates behind RMSProp (degree 0) and trust-scaled ones in LARS; Adam's ν is a maximum of
|g| in Adamax (degree 1). So the table says what a slot is, and a run of the transformation on tiny
leaves with gradients f·g and parameters c·p, beside one with g and p, says by which powers of f and
c it scales there.
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
from trainkit.growth.opt_state.slots import Slot, as_slot

PyTree = Any
Record = dict[str, tuple[Any, dict[str, np.ndarray]]]

_STEPS = 7
_SIZE = 3
# Gradients far above every ε, parameters above Adafactor's floor of 1e-3 but so far below the
# gradients that coupled weight decay does not blur the answer.
_PARAM = 5e-3
_TOLERANCE = 0.03  # of a factor: integer powers of factors between 0.6 and 1.7 lie well apart


def degrees_in_place(
    tx: optax.GradientTransformation,
    params: PyTree,
    record: Callable[[PyTree, PyTree], Record],
) -> dict[str, Slot]:
    """Slot name -> `Slot` with measured powers, for the slots that scale by clean powers.

    Slots that stay 0, or scale by no power at all (a value clip in between), are left to the table;
    so is everything if `tx` wants more than gradients and parameters.
    """
    small = jax.tree.map(_tiny, params)
    rng = np.random.default_rng(0)
    draw = lambda make: jax.tree.map(lambda x: make(x.shape).astype(x.dtype), small)

    def of_axes(shape: tuple[int, ...]) -> np.ndarray:
        """A product of one factor an axis, as those of a growth are: factored moments keep it."""
        drawn = [rng.uniform(0.6, 1.7, n) ** (1 / len(shape)) for n in shape]
        return functools.reduce(np.multiply.outer, drawn, np.ones(()))

    f, c = draw(of_axes), draw(of_axes)
    p = draw(lambda shape: _PARAM * rng.choice([-1.0, 1.0], shape))
    sign = draw(lambda shape: rng.choice([-1.0, 1.0], shape))
    times = lambda a, b: jax.tree.map(np.multiply, a, b)

    update = jax.jit(lambda g, s, q: tx.update(g, s, q))

    def run(gradients: PyTree, parameters: PyTree) -> Record:
        with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
            state = tx.init(parameters)
            for step in range(_STEPS):
                # One size for all entries, so that norms scale by the root mean square of f alone.
                size = np.float32(1.0 + 0.25 * step)
                grads = jax.tree.map(lambda g, n=size: g * n, gradients)
                _, state = update(grads, state, parameters)
            return record(state, jax.eval_shape(tx.init, parameters))

    @functools.cache
    def tiled() -> Record:
        return run(*(jax.tree.map(lambda x: np.tile(x, (2,) * x.ndim), t) for t in (sign, p)))

    try:
        plain, scaled = run(sign, p), run(times(sign, f), times(c, p))
    except Exception:
        # The rule needs a loss value, larger leaves, …: the table has to do.
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


def _tiny(leaf: Any) -> np.ndarray:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    shape = (_SIZE,) * len(leaf.shape) if floating else leaf.shape
    return np.zeros(shape, np.float32 if floating else leaf.dtype)


def _entries(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> int:
    """The power of √(entries) by which a slot of leaves tiled twice along each axis is larger: a
    norm beside another says nothing, a norm alone 1, and a root mean square 0."""
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
    # Plain powers first; then those of whole norms; then any constant, as a global clip makes one.
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
