"""Cases of tables of copies: looked up by remainders, or by constants that differ."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, Leaf, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

INT = np.int32
KINDS = st.sampled_from(["free", "free", "plain"])
ROWS = st.sampled_from([Leaf("rows", 3, 6), Leaf("rows", 2, 6), Leaf("rows", 5, 10)])
axis = st.sampled_from([2, DOUBLE, HALF_MORE, Sum((DOUBLE, 1))])


def numbers(rng, shape):
    return rng.integers(-40, 40, shape)


@st.composite
def looked_up(draw, fn, also=False):
    """Rows of a table at numbers of any size, `fn(x, i)`; `also` contracted over its rows."""
    rows, count = draw(ROWS), draw(st.sampled_from([4, DOUBLE, Sum((DOUBLE, 1))]))
    index = Operand((count,), numbers, "plain" if specs.grows(count) else "same", INT)
    table = Operand((rows, draw(axis)), kind=draw(KINDS))
    if not also:
        return Case(fn, fn, (table, index), draw(SEED))
    both = lambda x, i, y: (fn(x, i), y @ x)
    return Case(both, both, (table, index, Operand((2, rows), kind=draw(KINDS))), draw(SEED))


def floored(x, i):
    return x[i % len(x)]


def towards_zero(x, i):
    return x[lax.rem(i.astype(np.uint32), np.uint32(len(x)))]


def unsigned(x, i):
    return x[i.astype(np.uint32) % len(x)]


def masked(x, i):
    return x[jnp.where(i > 0, i % len(x), 1)]


def joined(x, i):
    return x[jnp.concatenate([i % len(x), (7 * i + 3) % len(x)])]


def stacked(x, i):
    return x[jnp.stack([i % len(x), (7 * i + 3) % len(x)], 1)]


def moved(x, i):
    return x[jnp.expand_dims((i % len(x)).astype(np.int8), 0).T[1:]]


def clipped(x, i):
    return jnp.take(x, i % len(x), 0, mode="clip")


def filled(x, i):
    return jnp.take(x, i % len(x), 0, mode="fill")


@st.composite
def picked(draw, also=False):
    """Rows that constants pick, with more rows in the big program, each within an old one."""
    n, m = draw(st.sampled_from([(3, 5), (3, 6), (4, 9)]))
    ends = draw(st.sets(st.integers(1, m - 1), min_size=n - 1, max_size=n - 1))
    new = draw(st.lists(st.integers(0, m - 1), min_size=1, max_size=6))
    old = np.searchsorted(sorted(ends), new, side="right")
    mode = draw(st.sampled_from(["clip", "fill", "promise_in_bounds"]))
    dims = lax.GatherDimensionNumbers((1,), (0,), (0,))

    def at(index):
        index = np.asarray(index, INT)[:, None]
        pick = lambda x: lax.gather(x, index, dims, (1, x.shape[1]), mode=mode)
        return (lambda x, y: (pick(x), y @ x)) if also else pick

    rows = Leaf("buckets", n, m)
    operands = [Operand((rows, draw(axis)), kind=draw(KINDS))]
    operands += [Operand((2, rows))] if also else []
    return Case(at(old), at(new), tuple(operands), draw(SEED))


CASES = {
    "choice": {
        **{
            f"a remainder, {fn.__name__}": looked_up(fn)
            for fn in (
                floored,
                towards_zero,
                unsigned,
                masked,
                joined,
                stacked,
                moved,
                clipped,
                filled,
            )
        },
        "a remainder, and contracted": looked_up(floored, also=True),
    },
    "gather": {"other constants": picked(), "other constants, contracted": picked(also=True)},
}

TABLE, INDEX = (Leaf("rows", 5, 10), 2), Operand((4,), numbers, "same", INT)
LARGE = (Leaf("rows", 70, 140), 2)
BUCKETS = (Leaf("rows", 3, 6), 2)


def lines(x, i, mode="promise_in_bounds", width=1):
    """Rows at indices that take no negative ones, or ranges of rows that begin there."""
    dims = lax.GatherDimensionNumbers((1,) if width == 1 else (1, 2), (0,)[: width == 1], (0,))
    return lax.gather(x, i[:, None], dims, (width, x.shape[1]), mode=mode)


def of(fn):
    """A use of the remainder by the number of rows of a table, towards 0."""
    return lambda x, *more: fn(x, lax.rem(more[-1], INT(len(x))), *more)


def signs(x, r, i):
    return jnp.where((r < 0)[:, None], x[0], 1.0)


def a_slice(x, r, i):
    return x[from_place(r, r)]


def from_place(x, r):
    """Two elements, from the place that the first remainder is."""
    start = lax.index_in_dim(r, 0, keepdims=False)
    return lax.dynamic_slice(x, (start,), (2,), allow_negative_indices=False)


def of_two(x, r, i):
    dims = lax.GatherDimensionNumbers((), (0, 1), (0, 1))
    return lax.gather(x, jnp.stack([r, r], 1), dims, (1, 1), mode="fill")


def constants(small, big):
    """Rows that constants pick in two programs."""
    pick = lambda index: lambda x: x[index]
    return pick(np.array(small)), pick(np.array(big))


# A use, its operands, and what the refusal says.
USES = {
    "a test moved": (signs, [TABLE, INDEX], "`broadcast_in_dim` uses remainders as numbers"),
    "the sum with another": (lambda x, r, i: x[r + i], [TABLE, INDEX], "`add` uses remainders"),
    "a slice": (a_slice, [TABLE, INDEX], "`dynamic_slice` uses remainders"),
    "a position": (
        lambda x, r, i: from_place(i, r), [TABLE, INDEX], "`dynamic_slice` uses remainders"
    ),
    "as numbers": (
        lambda x, r, i: r.astype(float) @ jnp.ones((4, 2)), [TABLE, INDEX],
        "`convert_element_type` uses remainders",
    ),
    "a dtype too small": (
        lambda x, r, i: lines(x, r.astype(np.int8)), [LARGE, INDEX], "int8, which does not hold all"
    ),
    "without a sign": (
        lambda x, r, i: x[r.astype(np.uint32)], [LARGE, INDEX], "uint32, which does not hold all"
    ),
    "the next": (lambda x, r, i: x[r + 1], [TABLE, INDEX], "`add` uses remainders"),
    "an order": (lambda x, r, i: r < 2, [TABLE, INDEX], "`lt` compares remainders"),
    "not one": (lambda x, r, i: r != 1, [TABLE, INDEX], "`ne` compares remainders"),
    "one of two tests": (
        lambda x, r, i: ((r < 0) & (i > 2)), [TABLE, INDEX], "`and` uses remainders"
    ),
    "another where negative": (
        lambda x, r, i: x[lax.select(r < 0, i, r)], [TABLE, INDEX], "`select_n` uses remainders"
    ),
    "another raised": (
        lambda x, r, i: x[lax.select(r < 0, r[::-1] + INT(len(x)), r)], [TABLE, INDEX],
        "`select_n` uses remainders",
    ),
    "raised for nothing": (
        lambda x, r, i: x[jnp.concatenate([r, r + INT(len(x))])], [TABLE, INDEX],
        "`concatenate` mixes remainders",
    ),
    "by two numbers": (
        lambda x, r, y, i: x[jnp.concatenate([r, lax.rem(i, INT(len(y)))])],
        [TABLE, BUCKETS, INDEX], "`concatenate` mixes remainders",
    ),
    "or the last": (
        lambda x, r, i: x[jnp.where(i > 2, r, len(x) - 1)], [TABLE, INDEX],
        "`select_n` mixes remainders with other numbers",
    ),
    "or the number": (
        lambda x, r, i: x[jnp.where(i > 2, r, i)], [TABLE, INDEX],
        "`select_n` mixes remainders with other numbers",
    ),
    "remainders of remainders": (
        lambda x, r, i: lines(r[:, None], r % INT(len(x))), [TABLE, INDEX],
        "`rem` uses remainders",
    ),
    "a table of remainders": (
        lambda x, r, i: lines(r[:, None], jnp.where(r < 0, r + INT(len(x)), r)), [TABLE, INDEX],
        "`gather` uses remainders",
    ),
    "two indices": (of_two, [TABLE, INDEX], "several components with a remainder"),
    "a range": (
        lambda x, r, i: lines(x, jnp.where(r < 0, r + INT(len(x)), r), width=2), [TABLE, INDEX],
        "a range that begins at a remainder",
    ),
    "another table": (
        lambda x, r, y, i: y[jnp.where(r < 0, r + INT(len(x)), r)], [TABLE, BUCKETS, INDEX],
        "among 3 → 6 rows",
    ),
    "below 0": (lambda x, r, i: lines(x, r), [TABLE, INDEX], "that may be negative"),
    "twice": (lambda x, r, i: x[2 * r], [TABLE, INDEX], "`mul` uses remainders"),
}  # fmt: skip
REFUSED = {
    **{name: (of(fn), of(fn), operands, words) for name, (fn, operands, words) in USES.items()},
    "one row for two": (
        *constants([0, 1, 2], [3, 4, 4]), [BUCKETS],
        "row 4 of the big one would have to be a copy of two rows, 1 and 2",
    ),
    "other rows later": (*constants([0, 1, 0], [0, 3, 3]), [BUCKETS], "two rows, 0 and 1"),
    "out of order": (*constants([0, 2, 1], [0, 1, 4]), [BUCKETS], "old rows would be out of order"),
    "no place": (*constants([0, 2], [3, 4]), [BUCKETS], "rows 3 and 4, which are copies of old"),
    "out of bounds": (*constants([1, 3], [1, 6]), [BUCKETS], "more than one positive factor"),
}  # fmt: skip
