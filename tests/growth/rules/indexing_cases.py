"""Cases of elements chosen by an index that is computed: gather, scatter, dynamic slices."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

KINDS = st.sampled_from(["free", "free", "plain"])
# Few shapes, since each is compiled.
axis = st.sampled_from([2, DOUBLE, HALF_MORE, Sum((DOUBLE, 1)), Sum((1, 2))])
MODES = ("clip", "fill", "promise_in_bounds")


def index_kind(draw):
    return draw(st.sampled_from(["same", "same", "plain"]))


def places(size):
    """Indices within an axis of that many units."""
    return lambda rng, shape: rng.integers(0, size, shape)


@st.composite
def rows(draw, mode, table=axis):
    """Rows of a table: [n, d] at indices [k, 1]; a table that grows keeps its rows in place."""
    n, d = draw(table), draw(axis)
    size = specs.sizes(n)[0]
    numbers = lax.GatherDimensionNumbers((1,), (0,), (0,))
    fns = [lambda x, i, w=w: lax.gather(x, i, numbers, (1, w), mode=mode) for w in specs.sizes(d)]
    count = draw(st.sampled_from([3, DOUBLE]))
    index = Operand((count, 1), places(size), "plain" if specs.grows(count) else "same", np.int32)
    return Case(*fns, (Operand((n, d), kind=draw(KINDS)), index), draw(SEED))


@st.composite
def parts(draw):
    """Slices [2, d] of [n, d], from a place that is computed."""
    n, d = draw(axis), draw(axis)
    sizes = specs.sizes(d), specs.sizes(n)
    numbers = lax.GatherDimensionNumbers((1, 2), (), (0,))
    wide = draw(st.booleans())  # the whole of the axis, or part of it
    fns = [lambda x, i, w=w, m=m: lax.gather(x, i, numbers, (m if wide else 2, w), mode="clip")
           for w, m in zip(*sizes, strict=True)]  # fmt: skip
    index = Operand((3, 1), places(2), "same", np.int32)
    return Case(*fns, (Operand((n, d), kind=draw(KINDS)), index), draw(SEED))


@st.composite
def batched(draw):
    """x[b, i[b]]: one index an entry of an axis that both have."""
    b, n, d = (
        draw(axis),
        draw(st.sampled_from([2, Sum((1, 2))])),
        draw(st.sampled_from([2, DOUBLE])),
    )
    size = specs.sizes(n)[0]
    numbers = lax.GatherDimensionNumbers((1,), (1,), (1,), (0,), (0,))
    fns = [lambda x, i, w=w: lax.gather(x, i, numbers, (1, 1, w), mode="clip")
           for w in specs.sizes(d)]  # fmt: skip
    index = Operand((specs.plain(b), 1), places(size), "plain", np.int32)
    return Case(*fns, (Operand((b, n, d), kind=draw(KINDS)), index), draw(SEED))


@st.composite
def scattered(draw, fn, mode="clip", values="normal"):
    """Rows [k, d] put into [n, d] at indices [k, 1], some of them into one."""
    n, d = draw(st.sampled_from([3, Sum((1, 2)), DOUBLE])), draw(axis)
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0,))
    count = draw(st.sampled_from([3, DOUBLE, Sum((DOUBLE, 1)), Sum((1, 2))]))
    index = Operand((count, 1), places(specs.sizes(n)[0]), "plain", np.int32)
    one = lambda x, i, u: fn(x, i, u, numbers, mode=mode)
    updates = Operand((specs.plain(count), draw(st.sampled_from([d, specs.plain(d)]))), values,
                      draw(KINDS))  # fmt: skip
    return Case(one, one, (Operand((n, d), values, draw(KINDS)), index, updates), draw(SEED))


@st.composite
def scattered_parts(draw, fn):
    """[2, d] written into [n, d] from a place that is computed, with a batch axis before both."""
    b, n, d = draw(st.sampled_from([2, DOUBLE])), draw(st.sampled_from([3, Sum((1, 2)), DOUBLE])), 2
    size = draw(st.sampled_from([2, n]))
    numbers = lax.ScatterDimensionNumbers((1, 2), (), (1,), (0,), (0,))
    one = lambda x, i, u: fn(x, i, u, numbers, mode="clip")
    index = Operand((specs.plain(b), 1), places(1), "plain", np.int32)
    updates = Operand((b, size, d), kind=draw(KINDS))
    return Case(one, one, (Operand((b, n, d), kind=draw(KINDS)), index, updates), draw(SEED))


@st.composite
def applied(draw):
    """x.at[i].apply(f): what an equation does with old values, it has a body for."""
    d = draw(axis)
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0,))

    def fn(x, i):
        return lax.scatter_apply(x, i, lax.cos, numbers, update_shape=(2, x.shape[1]), mode="clip")

    index = Operand((2, 1), lambda rng, shape: [[0], [2]], "same", np.int32)
    return Case(fn, fn, (Operand((3, d), kind=draw(KINDS)), index), draw(SEED))


@st.composite
def dynamic(draw):
    axes = draw(st.sampled_from([3, Sum((1, 2)), DOUBLE])), draw(specs.anything)
    whole = draw(st.booleans())
    n = specs.sizes(axes[0])
    sizes = [(n[i] if whole else 2, specs.sizes(axes[1])[i]) for i in (0, 1)]
    fns = [
        lambda x, i, j, s=s: lax.dynamic_slice(x, (i, j), s, allow_negative_indices=False)
        for s in sizes
    ]
    start = [Operand((), places(2), draw(st.sampled_from(["same", "free"])), np.int32)
             for _ in range(2)]  # fmt: skip
    return Case(*fns, (Operand(axes, kind=draw(KINDS)), *start), draw(SEED))


@st.composite
def updated(draw):
    axes = draw(st.sampled_from([3, Sum((1, 2)), DOUBLE])), draw(specs.anything)
    first = draw(st.sampled_from([axes[0], 2, 1]))
    fn = lambda x, u, i, j: lax.dynamic_update_slice(x, u, (i, j), allow_negative_indices=False)
    start = [Operand((), places(2), draw(st.sampled_from(["same", "free"])), np.int32)
             for _ in range(2)]  # fmt: skip
    update = Operand((first, specs.plain(axes[1])), kind=draw(KINDS))
    return Case(fn, fn, (Operand(axes, kind=draw(KINDS)), update, *start), draw(SEED))


fixed_table = st.sampled_from([2, 3, Sum((1, 2))])
SCATTERS = {
    "scatter-add": lax.scatter_add, "scatter-sub": lax.scatter_sub, "scatter-mul": lax.scatter_mul,
    "scatter-min": lax.scatter_min, "scatter-max": lax.scatter_max,
}  # fmt: skip

CASES = {
    "gather": {
        **{mode: rows(mode, fixed_table if mode == "clip" else axis) for mode in MODES},
        "clip, table that grows": rows("clip"),
        "parts": parts(),
        "batched": batched(),
    },
    "scatter": {
        "": scattered(lax.scatter),
        "parts": scattered_parts(lax.scatter),
        "applied": applied(),
    },
    **{
        name: {"": scattered(fn), "fill": scattered(fn, "fill"), "parts": scattered_parts(fn)}
        for name, fn in SCATTERS.items()
    },
    "dynamic_slice": {"": dynamic()},
    "dynamic_update_slice": {"": updated()},
}
