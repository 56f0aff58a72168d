"""Cases of reductions that are not sums, of windows, and of what runs along an axis."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.elementwise_cases import BOOL, INT, SEED
from tests.growth.rules.harness import Case, Operand

KINDS = st.sampled_from(["free", "free", "plain"])


@st.composite
def along(draw, fn, values="normal", dtype=np.float64, count=1, axis=specs.anything, other=None,
          both=True):  # fmt: skip
    """`fn(*operands, axis)` along one axis of two; growth of that one is refused by some."""
    d = draw(st.integers(0, 1)) if both else 0
    run = draw(st.one_of(axis, specs.fixed, st.just(specs.PARTS_FIXED)))
    rest = draw(other if other is not None else axis)
    axes = (run, rest) if d == 0 else (rest, run)
    operands = tuple(
        Operand(tuple(draw(st.sampled_from([a, specs.plain(a)])) for a in axes), values,
                draw(KINDS), dtype)
        for _ in range(count)
    )  # fmt: skip
    both_fn = lambda *xs: fn(*xs, d)
    return Case(both_fn, both_fn, operands, draw(SEED))


def window(reduce):
    def fn(x, d):
        size, stride, pad = [1, 1], [1, 1], [(0, 0), (0, 0)]
        size[d], stride[d], pad[d] = 2, 1, (1, 0)
        return reduce(x, tuple(size), tuple(stride), pad)

    return fn


def pool(init, combine):
    return window(lambda x, size, stride, pad: lax.reduce_window(
        x, x.dtype.type(init), combine, size, stride, pad))  # fmt: skip


few_shapes = st.sampled_from([specs.DOUBLE, 2])
boolean = {"values": "bool", "dtype": BOOL}

CASES = {
    "reduce_max": {"": along(lambda x, d: jnp.max(x, d))},
    "reduce_min": {"": along(lambda x, d: jnp.min(x, d))},
    "argmax": {"": along(lambda x, d: lax.argmax(x, d, np.int32))},
    "argmin": {"": along(lambda x, d: lax.argmin(x, d, np.int32))},
    "reduce_prod": {"": along(lambda x, d: jnp.prod(x, d))},
    "reduce_xor": {"": along(lambda x, d: lax.reduce_xor(x, (d,)), "normal", INT)},
    "reduce_and": {"": along(lambda x, d: lax.reduce_and(x, (d,)), **boolean)},
    "reduce_or": {"": along(lambda x, d: lax.reduce_or(x, (d,)), **boolean)},
    **{
        name: {
            "": along(fn),
            "backwards": along(partial(lambda x, d, fn: fn(x, d, reverse=True), fn=fn)),
        }
        for name, fn in (
            ("cumsum", lax.cumsum),
            ("cummax", lax.cummax),
            ("cummin", lax.cummin),
            ("cumprod", lax.cumprod),
            ("cumlogsumexp", lax.cumlogsumexp),
        )
    },
    "sort": {
        "": along(lambda x, d: lax.sort(x, d)),
        "keys": along(lambda x, y, d: lax.sort((x, y), d, num_keys=1), count=2),
    },
    "rev": {"": along(lambda x, d: lax.rev(x, (d,)))},
    "fft": {"": along(lambda x, d: jnp.fft.fft(x), "normal", np.complex128)},
    "reduce_window_sum": {"": along(pool(0.0, lax.add), axis=few_shapes)},
    "reduce_window_max": {"": along(pool(-np.inf, lax.max), axis=few_shapes)},
    "reduce_window_min": {"": along(pool(np.inf, lax.min), axis=few_shapes)},
}
