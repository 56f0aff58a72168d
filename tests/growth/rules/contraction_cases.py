"""Cases of sums of products: dot_general, convolutions, plain sums, rows in groups."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, ODD, Leaf, Prod, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

KINDS = st.sampled_from(["free", "free", "free", "plain", "const"])


@st.composite
def dot(draw, axis=specs.anything):
    """Up to two contracted axes, a batch axis, a free one each side; in any order."""
    shared = [draw(axis) for _ in range(draw(st.integers(0, 3)))]
    count = draw(st.integers(0, len(shared)))  # of them contracted, the others batch
    sides = []
    for _ in range(2):
        mine = [draw(st.sampled_from([a, specs.plain(a)])) for a in shared]
        mine += [draw(axis) for _ in range(draw(st.integers(0, 1)))]
        order = draw(st.permutations(range(len(mine))))
        sides.append((tuple(mine[i] for i in order), [order.index(i) for i in range(len(shared))]))
    (axes_a, at_a), (axes_b, at_b) = sides
    numbers = ((at_a[:count], at_b[:count]), (at_a[count:], at_b[count:]))
    fn = lambda a, b: lax.dot_general(a, b, numbers)
    kinds = draw(KINDS), draw(KINDS)
    if kinds == ("const", "const"):
        kinds = "free", "const"
    a, b = (Operand(x, kind=k) for x, k in zip((axes_a, axes_b), kinds, strict=True))
    return Case(fn, fn, (a, b), draw(SEED))


@st.composite
def inner(draw):
    """All axes contracted: each operand may be split along some, and be copied along others."""
    axes = draw(st.lists(specs.repeated, min_size=2, max_size=3))
    numbers = (list(range(len(axes))),) * 2, ((), ())
    fn = lambda a, b: lax.dot_general(a, b, numbers)
    return Case(fn, fn, (Operand(tuple(axes)), Operand(tuple(axes))), draw(SEED))


@st.composite
def summed(draw, axis=specs.anything):
    axes = tuple(draw(axis) for _ in range(draw(st.integers(1, 3))))
    gone = draw(st.sets(st.integers(0, len(axes) - 1), min_size=1))
    fn = lambda x: jnp.sum(x, tuple(gone))
    values = draw(st.sampled_from(["normal", "positive"]))
    return Case(fn, fn, (Operand(axes, values, draw(st.sampled_from(["free", "plain"]))),),
                draw(SEED))  # fmt: skip


# Channels of the input, in and out of the kernel, groups; the window's size and padding.
CHANNELS = {
    "plain": ((DOUBLE, DOUBLE, ODD, 1), (Sum((DOUBLE, 1)), Leaf("in", 3, 5), 2, 1),
              (2, 2, HALF_MORE, 1)),
    "depthwise": ((DOUBLE, 1, DOUBLE, "all"), (ODD, 1, Prod((ODD, 2)), "all")),
    "grouped": ((Prod((2, DOUBLE)), DOUBLE, Prod((2, HALF_MORE)), 2),
                (Leaf("four", 4, 8), DOUBLE, Leaf("six", 6, 8), 2), (4, 2, 4, 2)),
    # Each group has channels with two scales.
    "groups of parts": ((Prod((2, Sum((DOUBLE, 1)))), Sum((DOUBLE, 1)), Prod((2, Sum((1, 2)))), 2),
                        (Prod((2, Sum((1, 2)))), Sum((1, 2)), Prod((2, Sum((DOUBLE, 1)))), 2),
                        (Prod((Sum((1, 2)), DOUBLE)), DOUBLE, Prod((Sum((1, 2)), 2)), 3)),
}  # fmt: skip
WINDOWS = (
    (3, 3, (1, 1), (1, 1), 1, 1), (1, 3, (0, 0), (1, 1), 1, 1), (3, 5, (1, 1), (2, 2), 2, 1),
    (2, 2, (1, 0), (1, 0), 1, 2),
    # New taps on one side, and more results behind the old ones.
    (3, 4, (2, 0), (3, 0), 1, 1), (2, 3, (0, 0), (0, 1), 1, 2), (2, 4, (1, 1), (3, 3), 1, 1),
    (3, 4, (2, 1), (4, 3), 2, 2), (1, 2, (0, 0), (1, 3), 1, 1),
)  # fmt: skip


@st.composite
def conv(draw, channels):
    inner, kernel_in, outer, groups = draw(st.sampled_from(channels))
    n, m, pad, pad_big, stride, dilation = draw(st.sampled_from(WINDOWS))
    window = n if n == m else Leaf("window", n, m)
    batch = draw(st.sampled_from([2, DOUBLE]))
    x = Operand((batch, 4, inner), kind=draw(st.sampled_from(["free", "plain"])))
    kernel = Operand((window, kernel_in, outer), kind=draw(st.sampled_from(["free", "plain"])))
    both = specs.sizes(inner) if groups == "all" else (groups, groups)

    def fn(pad, groups):
        return lambda x, k: lax.conv_general_dilated(
            x, k, (stride,), [pad], rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups,
        )  # fmt: skip

    return Case(fn(pad, both[0]), fn(pad_big, both[1]), (x, kernel), draw(SEED))


def in_batch_groups(x, k):
    return lax.conv_general_dilated(
        x, k, (1,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC"), batch_group_count=2
    )


@st.composite
def batch_groups(draw):
    x, k = Operand((4, 4, draw(st.sampled_from([2, Sum((1, 1))])))), Operand((3, 2, 4))
    return Case(in_batch_groups, in_batch_groups, (x, k), draw(SEED))


@st.composite
def ragged(draw):
    """Rows in groups, a matrix a group."""
    rows, inner, outer = 4, draw(st.sampled_from([DOUBLE, ODD, 2])), draw(specs.some_leaf)
    sizes = Operand((2,), lambda rng, shape: [1, 3], "same", np.int32)
    fn = lambda a, b, sizes: lax.ragged_dot(a, b, sizes)
    kinds = draw(st.sampled_from(["free", "plain"])), draw(st.sampled_from(["free", "plain"]))
    a, b = Operand((rows, inner), kind=kinds[0]), Operand((2, inner, outer), kind=kinds[1])
    return Case(fn, fn, (a, b, sizes), draw(SEED))


@st.composite
def ragged_contraction(draw):
    """Groups along the contracted axis: rows of both operands are summed by group."""
    numbers = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    fn = lambda a, b, sizes: lax.ragged_dot_general(a, b, sizes, numbers)
    sizes = Operand((2,), lambda rng, shape: [1, 3], "same", np.int32)
    return Case(fn, fn, (Operand((4, 2)), Operand((4, 3)), sizes), draw(SEED))


CASES = {
    "dot_general": {"": dot(), "one axis twice": dot(specs.repeated), "all axes": inner()},
    "reduce_sum": {"": summed(), "one axis twice": summed(specs.repeated)},
    "conv_general_dilated": {
        **{name: conv(channels) for name, channels in CHANNELS.items()},
        "batch groups": batch_groups(),
    },
    "ragged_dot_general": {"": ragged(), "contracted": ragged_contraction()},
}
