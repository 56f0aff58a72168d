"""Two programs whose equations differ in more than the sizes of their axes are refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.rules.axis_specs import DOUBLE, Leaf
from tests.growth.rules.harness import Case, Operand, refusal, settle

pytestmark = pytest.mark.usefixtures("x64")
INT, BOOL, COMPLEX = np.int32, np.bool_, np.complex128
SPD = lambda rng, shape: np.broadcast_to(np.eye(shape[-1]) * 2.0, shape)
ZERO = lambda rng, shape: np.zeros(shape)


def by(fn, *choices):
    """The same function with another argument in each program."""
    return tuple(lambda *xs, c=c: fn(*xs, c) for c in choices)


def convolved(x, k, options):
    stride, pad, dilation, numbers = options
    return lax.conv_general_dilated(x, k, (stride,), [pad], None, (dilation,), numbers)


def windows(x, options):
    size, stride, pad, base, dilation = options
    each = (1, size), (1, stride), ((0, 0), pad), (1, base), (1, dilation)
    return lax.reduce_window(x, np.float64(0), lax.add, *each)


def gathered(x, i, options):
    numbers, mode = options
    return lax.gather(x, i, lax.GatherDimensionNumbers(*numbers), (1, 2), mode=mode)


def added(x, i, u, options):
    numbers, mode = options
    return lax.scatter_add(x, i, u, lax.ScatterDimensionNumbers(*numbers), mode=mode)


def looped(x, reverse):
    return lax.scan(lambda c, row: (jnp.tanh(c + row), c), x[0], x, reverse=reverse)[1]


NWC, WNC = ("NWC", "WIO", "NWC"), ("WNC", "WIO", "WNC")
SQUARE = [(2, 2)]
# The two functions, and their operands.
DIFFERENT = {
    "axes of a maximum": (*by(jnp.max, 0, 1), SQUARE),
    "axes of a minimum": (*by(jnp.min, 0, 1), SQUARE),
    "axes of a sum": (*by(jnp.sum, 0, 1), SQUARE),
    "axes of a product": (*by(jnp.prod, 0, 1), SQUARE),
    "axes of bits": (
        *by(lambda x, d: lax.reduce_and(x, (d,)), 0, 1), [Operand((2, 2), dtype=BOOL)]
    ),
    "axes of places": (*by(lambda x, d: lax.argmax(x, d, INT), 0, 1), SQUARE),
    "axes of sums so far": (*by(lambda x, d: lax.cumsum(x, d), 0, 1), SQUARE),
    "directions": (*by(lambda x, r: lax.cumsum(x, 0, reverse=r), False, True), SQUARE),
    "directions of a maximum": (*by(lambda x, r: lax.cummax(x, 0, reverse=r), False, True), SQUARE),
    "axes of an order": (*by(lambda x, d: lax.sort(x, d), 0, 1), SQUARE),
    "keys": (
        *by(lambda x, y, n: lax.sort((x, y), 0, num_keys=n), 1, 2), [(2, 2), (2, 2)]
    ),
    "axes that are turned about": (*by(lambda x, d: lax.rev(x, (d,)), 0, 1), SQUARE),
    "transforms": (
        *by(lambda x, fn: fn(x), jnp.fft.fft, jnp.fft.ifft), [Operand((2, 2), dtype=COMPLEX)]
    ),
    "transposed": (*by(lax.transpose, (0, 1), (1, 0)), SQUARE),
    "transposed otherwise": (*by(lax.transpose, (1, 0, 2), (2, 1, 0)), [(2, 2, 2)]),
    "broadcast": (*by(lambda x, d: lax.broadcast_in_dim(x, (2, 2), (d,)), 0, 1), [(2,)]),
    "squeezed": (*by(lambda x, d: lax.squeeze(x, (d,)), 0, 1), [(1, 1, 2)]),
    "put together": (
        *by(lambda x, y, d: lax.concatenate((x, y), d), 0, 1), [(2, 2), (2, 2)]
    ),
    "the number of parts": (*by(lambda x, n: lax.concatenate((x,) * n, 0).sum(), 2, 3), [(2,)]),
    "split": (*by(lambda x, d: lax.split(x, [1, 1], d)[0], 0, 1), [(2, 2)]),
    "sliced": (*by(lambda x, d: lax.slice_in_dim(x, 0, 1, axis=d), 0, 1), [(2, 2)]),
    "padded": (*by(lambda x, c: lax.pad(x, np.float64(0), (c,)), (1, 0, 0), (0, 1, 0)), [(3,)]),
    "contracted": (
        *by(lambda a, b, d: lax.dot_general(a, b, (((d,), (0,)), ((), ()))), 0, 1),
        [(2, 2), (2, 2)],
    ),
    "batch axes": (
        *by(lambda a, b, d: lax.dot_general(a, b, (((1 - d,), (1,)), ((d,), (0,)))), 0, 1),
        [(2, 2), (2, 2)],
    ),
    "strides": (
        *by(convolved, (1, (0, 0), 2, NWC), (2, (1, 0), 1, NWC)), [(2, 5, 2), (3, 2, 2)]
    ),
    "padding": (
        *by(convolved, (1, (1, 0), 1, NWC), (1, (0, 1), 1, NWC)), [(2, 4, 2), (3, 2, 2)]
    ),
    "layouts": (
        *by(convolved, (1, (1, 1), 1, NWC), (1, (1, 1), 1, WNC)), [(4, 4, 2), (3, 2, 2)]
    ),
    "windows": (*by(windows, (2, 1, (1, 0), 1, 1), (2, 1, (0, 1), 1, 1)), [(2, 4)]),
    "dilated windows": (*by(windows, (2, 1, (1, 1), 1, 2), (3, 1, (1, 1), 1, 1)), [(2, 4)]),
    "rounding": (
        *by(lax.round, lax.RoundingMethod.AWAY_FROM_ZERO, lax.RoundingMethod.TO_NEAREST_EVEN),
        [(2,)],
    ),
    "powers": (*by(lax.integer_pow, 3, 4), [(2,)]),
    "mantissas": (*by(lambda x, n: lax.reduce_precision(x, 11, n), 23, 52), [(2,)]),
    "factors": (*by(lambda x, lower: lax.linalg.cholesky(x, symmetrize_input=lower), True, False),
                [Operand((2, 2), SPD)]),
    "triangles": (
        *by(lambda a, b, lower: lax.linalg.triangular_solve(a, b, left_side=True, lower=lower),
            True, False), [Operand((2, 2), SPD), (2, 2)],
    ),
    "sides": (
        *by(lambda a, b, left: lax.linalg.triangular_solve(a, b, left_side=left), True, False),
        [Operand((2, 2), SPD), (2, 2)],
    ),
    "tables": (
        *by(gathered, (((1,), (0,), (0,)), "clip"), (((1,), (0,), (0,)), "fill")),
        [(3, 2), Operand((2, 1), ZERO, "same", INT)],
    ),
    "rows and offsets": (
        *by(gathered, (((1,), (0,), (0,)), "clip"), (((0,), (0,), (0,)), "clip")),
        [(3, 2), Operand((2, 1), ZERO, "same", INT)],
    ),
    "out of bounds": (
        *by(added, (((1,), (0,), (0,)), "clip"), (((1,), (0,), (0,)), "fill")),
        [(3, 2), Operand((2, 1), ZERO, "same", INT), (2, 2)],
    ),
    "updates": (
        *by(added, (((1,), (0,), (0,)), "clip"), (((0,), (0,), (0,)), "clip")),
        [(3, 2), Operand((2, 1), ZERO, "same", INT), (2, 2)],
    ),
    "the number of sums": (*by(lambda x, k: jnp.max(lax.top_k(x, k)[0], 1), 1, 2), [(2, 3)]),
    "kinds of numbers": (*by(lambda x, d: x.astype(d).astype(float), INT, np.float32), [(2,)]),
    "whole numbers in one alone": (*by(lambda x, d: x.astype(d).astype(int), float, INT), [(2,)]),
    "bits": (*by(lambda x, d: x.astype(d).astype(float), BOOL, np.float32), [(2,)]),
    "signs": (*by(lambda x, d: x.astype(d).astype(float), np.uint8, np.int8),
              [Operand((2,), lambda rng, shape: [1, 200], "plain", INT)]),
    "numbers of an axis": (
        *by(lambda x, d: x + lax.broadcasted_iota(float, (2, 2), d), 0, 1), SQUARE
    ),
    "axes of copies": (*by(lambda x, n: jnp.tile(x, n).sum(), (1, 2), (2, 1)), SQUARE),
    "stacked": (*by(lambda x, d: jnp.stack([x, x], d), 0, 1), SQUARE),
    "bounds": (*by(lambda x, n: jnp.where(x > 0, x, n), 0.0, 1.0), SQUARE),
    "branches": (
        *by(lambda x, fn: lax.cond(x[0] > 0, fn, lambda y: y, x), jnp.sin, jnp.cos), [(2,)]
    ),
    "loops": (*by(looped, False, True), [(3, 2)]),
}  # fmt: skip


def case(small, big, operands, **options) -> Case:
    made = tuple(o if isinstance(o, Operand) else Operand(o) for o in operands)
    return Case(small, big, made, 0, ("repeat",), **options)


@pytest.mark.parametrize("name", DIFFERENT)
def test_equations_that_differ_are_refused(name):
    small, big, operands = DIFFERENT[name]
    refusal(case(small, big, operands))
    for fn in (small, big):  # each is a program that may grow
        assert settle(case(fn, fn, operands)).refused is None


def test_what_differs_and_may():
    """Sizes, and what only says how to compute."""
    small, big = by(lambda x, dtype: lax.dot(x, x, preferred_element_type=dtype), None, np.float64)
    assert settle(case(small, big, [(2, 2)])).refused is None
    small, big = by(lambda x, dtype: x.astype(dtype), np.float32, np.float16)
    assert settle(case(small, big, [(2,)], tolerance=2e-3)).refused is None
    small, big = by(lambda x, shape: lax.broadcast_in_dim(x, shape, (0,)), (2, 3), (4, 3))
    assert settle(case(small, big, [(DOUBLE,)])).refused is None
    pads = ((1, (1, high), 1, NWC) for high in (1, 4))  # three taps and five: one more result
    operands = [(2, 4, 2), (Leaf("taps", 3, 5), 2, 2)]
    assert settle(case(*by(convolved, *pads), operands)).refused is None
