"""Cases that are refused: one for each axis that must not grow, and each kind of padding unit.

A case is the small function, the big one, their operands, and what the refusal says.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.growth.rules.axis_specs import DOUBLE, Leaf, Prod, Sum
from tests.growth.rules.harness import Operand

SIX, FOUR = Leaf("six", 3, 6), Leaf("four", 4, 8)
INT = np.int32


def both(fn):
    return fn, fn


def index(*rows):
    return Operand(np.shape(rows), lambda rng, shape: rows, "same", INT)


def grown_index(leaf):
    return Operand((leaf, 1), lambda rng, shape: np.zeros(shape), "plain", INT)


def rows(mode):
    numbers = lax.GatherDimensionNumbers((1,), (0,), (0,))
    return lambda x, i: lax.gather(x, i, numbers, (1, 2), mode=mode)


def first_rows(x, i):
    numbers = lax.GatherDimensionNumbers((1, 2), (), (0,))
    return lax.gather(x, i, numbers, (1, 2), mode="clip")


def put(fn, part=False):
    numbers = lax.ScatterDimensionNumbers(*(((0, 1), (), (0,)) if part else ((1,), (0,), (0,))))
    return lambda x, i, u: fn(x, i, u, numbers, mode="clip")


def of_cosine(x, i, u):
    return put(lax.scatter_add)(x, i, jnp.cos(u))


def to_cosine(x, i):
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0,))
    shape = (2, x.shape[1])
    return lax.scatter_apply(x, i, lax.cos, numbers, update_shape=shape, mode="clip")


def solved(a, b):
    return lax.linalg.triangular_solve(a, b, left_side=True, lower=True)


def cut(small, big):
    return tuple(
        lambda x, s=start, e=stop, t=step: lax.slice(x, (s,), (e,), (t,))
        for start, stop, step in (small, big)
    )


def padded(small, big):
    return tuple(lambda x, c=c: lax.pad(x, np.float64(0), (c,)) for c in (small, big))


def summed_windows(x):
    return lax.reduce_window(x, np.float64(0), lax.add, (2,), (1,), "VALID")


def chosen(small, big):
    return tuple(lambda x, k=k: lax.top_k(x, k)[0] for k in (small, big))


def again(x):
    return lax.scan(lambda c, _: (jnp.cos(c), None), x, None, length=2)[0]


CHOLESKY = lambda a: lax.linalg.cholesky(a, symmetrize_input=False)
BITS = lambda *axes: Operand(axes, "bool", dtype=np.bool_)
# Axes that must not grow, or not so.
GROWN = {
    "rows of a table, clipped": (*both(rows("clip")), [(DOUBLE, 2), index([0], [1])], "clipped"),
    "part of a table": (
        *both(first_rows), [(DOUBLE, 2), index([0], [1])], "`gather` indexes into an axis"
    ),
    "a part from a place": (
        *both(lambda x, i: lax.dynamic_slice(x, (i[0],), (2,))), [(DOUBLE,), index(0)],
        "`dynamic_slice` indexes into an axis",
    ),
    "a part of another size from a place": (
        lambda x, i: lax.dynamic_slice(x, (i[0],), (2,)),
        lambda x, i: lax.dynamic_slice(x, (i[0],), (3,)),
        [(5,), index(0)], "`dynamic_slice` indexes into an axis",
    ),
    "an overwritten part": (
        *both(lambda x, u: lax.dynamic_update_slice(x, u, (0,))), [(DOUBLE,), (1,)],
        "part of an axis that grows is overwritten",
    ),
    "rows that are added to": (
        *both(put(lax.scatter_add)), [(DOUBLE, 2), index([0], [1]), (2, 2)],
        "a scatter indexes into an axis",
    ),
    "a part that is written": (
        *both(put(lax.scatter, part=True)), [(SIX, 2), index(0), (2, 2)],
        "a scatter writes part of an axis that grows",
    ),
    "rows that are multiplied": (
        *both(put(lax.scatter_mul)), [(3, 2), grown_index(DOUBLE), (DOUBLE, 2)],
        "an element is multiplied by every copy",
    ),
    "a matrix": (*both(CHOLESKY), [(2, DOUBLE, DOUBLE)], "`cholesky` of a matrix that grows"),
    "a system": (
        *both(solved), [(2, DOUBLE, DOUBLE), (2, DOUBLE, 3)], "a triangular system that grows"
    ),
    "sums so far": (*both(lambda x: lax.cumsum(x)), [(DOUBLE,)], "`cumsum` runs along an axis"),
    "an order": (*both(lambda x: lax.sort(x)), [(DOUBLE,)], "`sort` runs along an axis"),
    "values that are sorted by others": (
        *both(lambda x, y: lax.sort((x, y), 1, num_keys=1)), [(2, DOUBLE), (2, DOUBLE)],
        "`sort` runs along an axis",
    ),
    "turned about": (
        *both(lambda x: lax.rev(x, (1,))), [(2, Leaf("six", 4, 6))], "to a size that is no multiple"
    ),
    "the place of the greatest": (
        *both(lambda x: lax.argmax(x, 0, INT)), [(DOUBLE,)], "`argmax` returns indices into"
    ),
    "a product": (*both(jnp.prod), [(DOUBLE,)], "`reduce_prod` over an axis that grows uses every"),
    "bits that are counted": (
        *both(lambda x: lax.reduce_xor(x, (0,))), [BITS(DOUBLE)], "`reduce_xor` over an axis"
    ),
    "a transform": (
        *both(jnp.fft.fft), [Operand((2, DOUBLE), dtype=np.complex128)], "a Fourier transform runs"
    ),
    "windows": (*both(summed_windows), [(DOUBLE,)], "the windows of `reduce_window_sum` run over"),
    "a part from 0 on, not in the small model": (
        *cut((1, 3, 1), (0, 4, 1)), [(FOUR,)], "divides an axis that grows into parts, one of"
    ),
    "a part up to the end, not in the small model": (
        *cut((1, 3, 1), (2, 8, 1)), [(FOUR,)], "divides an axis that grows into parts, one of"
    ),
    "nothing of an axis that does not grow": (
        *cut((0, 0, 1), (0, 2, 1)), [(5,)], "a slice takes 0 of 5 entries in the small model"
    ),
    "every second, from others": (*cut((0, 4, 2), (1, 8, 2)), [(FOUR,)], "a strided slice"),
    "every second, then every third": (*cut((0, 4, 2), (0, 8, 3)), [(FOUR,)], "a strided slice"),
    "every second, but the last": (*cut((0, 3, 2), (0, 7, 2)), [(Leaf("3", 3, 7),)], "a strided"),
    "beyond the first group": (*cut((2, 4, 2), (2, 8, 2)), [(FOUR,)], "a strided slice"),
    "dilated": (*padded((0, 0, 1), (0, 0, 1)), [(DOUBLE,)], "a pad dilates or crops"),
    "dilated in the big one": (*padded((1, 0, 0), (1, 0, 1)), [(DOUBLE,)], "a pad dilates"),
    "cropped at the end": (*padded((0, -1, 0), (0, -1, 0)), [(DOUBLE,)], "a pad dilates or crops"),
    "cropped at the start": (*padded((-1, 0, 0), (-1, 0, 0)), [(DOUBLE,)], "dilates or crops"),
    "a smaller pad": (*padded((2, 0, 0), (1, 0, 0)), [(DOUBLE,)], "a pad is smaller in the big"),
    "a smaller pad at the end": (*padded((0, 2, 0), (0, 1, 0)), [(DOUBLE,)], "a pad is smaller"),
    "a pad in one alone": (*padded((0, 1, 0), (1, 1, 0)), [(DOUBLE,)], "or 0 in only one of"),
    "a shorter part": (
        lambda x: lax.split(x, [2, 2], 0), lambda x: lax.split(x, [7, 1], 0), [(FOUR,)],
        "a part of a split is shorter",
    ),
    "the best of an odd axis": (
        *chosen(1, 2), [(2, Leaf("odd", 3, 5))], "to a size that is not a multiple"
    ),
    "some of the copies": (*chosen(1, 1), [(2, SIX)], "some copies would be chosen alone"),
    "more of them": (*chosen(1, 2), [(2, 3)], "top_k keeps 1 of 3 and 2 of 3"),
    "the best of groups": (
        *chosen(1, 4), [(2, Prod((DOUBLE, DOUBLE)))], "the copies of an entry are not neighbours"
    ),
}  # fmt: skip
# What must not meet padding units, with the layout in which there are some.
PADDED = {
    "the least of rows": (
        *both(put(lax.scatter_min)), [(3, 2), grown_index(DOUBLE), (DOUBLE, 2)],
        "would enter `scatter-min`",
    ),
    "sums of rows that are not 0": (
        *both(of_cosine), [(3, 2), grown_index(DOUBLE), (DOUBLE, 2)], "would enter `scatter-add`"
    ),
    "an index that is out of bounds": (
        *both(rows("fill")), [(3, 2), grown_index(DOUBLE)], "would enter `gather`"
    ),
    "an unknown function": (
        *both(to_cosine), [(2, DOUBLE), index([0], [1])], "would enter `scatter`"
    ),
    "matrices": (*both(CHOLESKY), [(DOUBLE, 2, 2)], "would enter `cholesky`"),
    "systems": (
        *both(solved), [(DOUBLE, 2, 2), (DOUBLE, 2, 3)], "would enter `triangular_solve`"
    ),
    "the greatest": (*both(lambda x: jnp.max(x, 1)), [(2, DOUBLE)], "would enter `reduce_max`"),
    "the least": (*both(lambda x: jnp.min(x, 0)), [(DOUBLE, 2)], "would enter `reduce_min`"),
    "all of them": (
        *both(lambda x: lax.reduce_and(x, (0,))), [BITS(DOUBLE)], "would enter `reduce_and`"
    ),
    "a carry": (*both(again), [(DOUBLE,)], "padding units of a carry would not keep their value"),
    "sums": (*both(lambda x: jnp.sum(jnp.cos(x))), [(DOUBLE,)], "would be summed by `reduce_sum`"),
    "products": (
        *both(lambda x, y: jnp.cos(x) @ jnp.cos(y)), [(DOUBLE,), (DOUBLE,)],
        "would be summed by `dot_general`",
    ),
    # Where their results meet others: 0 times what is no number is none.
    "a division": (
        *both(lambda x, y, w: x / y @ w), [(DOUBLE,), (DOUBLE,), (DOUBLE,)], "would enter `div`"
    ),
    "a division of what is positive": (
        *both(lambda x, y, w: y / x @ w),
        [Operand((DOUBLE,), dtype=np.float64), Operand((DOUBLE,), "positive"), (DOUBLE,)],
        "would enter `div`",
    ),
    "a power": (
        *both(lambda x, y, w: jnp.power(x, y) @ w),
        [Operand((DOUBLE,), "positive"), (DOUBLE,), (DOUBLE,)], "would enter `pow`",
    ),
    "a root of one": (
        *both(lambda x, w: lax.rsqrt(x) @ w), [(3, DOUBLE), (DOUBLE,)], "would enter `rsqrt`"
    ),
    "an inverse": (
        *both(lambda x, w: lax.integer_pow(x, -2) @ w), [(DOUBLE,), (DOUBLE,)],
        "would enter `integer_pow`",
    ),
    "a remainder": (
        *both(lambda x, y, w: lax.rem(x, y) @ w),
        [(Sum((DOUBLE, 1)),), (Sum((DOUBLE, 1)),), (Sum((DOUBLE, 1)),)], "would enter `rem`",
    ),
    "a logarithm": (
        *both(lambda x, w: jnp.log(x) @ w),
        [Operand((3, DOUBLE), "positive"), (DOUBLE, 2)], "would enter `log`",
    ),
}  # fmt: skip
