"""Cases of top_k along an axis that grows, and of what reads its indices (see `Pick`, `Match`)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.axis_specs import DOUBLE, Leaf, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import POWERS, Case, Operand

EXPERTS = Leaf("experts", 3, 6)
KINDS = st.sampled_from(["free", "free", "plain"])
axis = st.sampled_from([2, DOUBLE, Sum((1, 2))])
# Ties among copies are broken by their places: mostly side by side.
LAYOUTS = ("repeat",)


@st.composite
def alone(draw):
    """Values and indices, along an axis that grows and along one that does not."""
    rows = draw(axis)
    along = draw(st.sampled_from([EXPERTS, EXPERTS, 3, Sum((1, 2)), Leaf("odd", 3, 5)]))
    n, m = specs.sizes(along)
    more = draw(st.sampled_from([m // n, m // n, 1]))
    fns = [lambda x, k=k: lax.top_k(x, k)[:1] if m > n else lax.top_k(x, k)
           for k in (2, 2 * more)]  # fmt: skip
    layouts = draw(st.sampled_from([LAYOUTS, LAYOUTS, ("repeat", "tile", "append")]))
    return Case(*fns, (Operand((rows, along), kind=draw(KINDS)),), draw(SEED), layouts,
                scales=tuple(POWERS))  # fmt: skip


@st.composite
def followed(draw, fn: Callable, *axes, axis_of_rows=2, count=2):
    """`fn(experts, values, indices, *operands)` at both sizes."""
    fns = []
    for i in (0, 1):
        n = specs.sizes(EXPERTS)[i]
        k = count * n // 3

        def run(x, *operands, n=n, k=k):
            return fn(n, *lax.top_k(x, k), *operands)

        fns.append(run)
    operands = [Operand((axis_of_rows, EXPERTS))]
    operands += [Operand(a, kind=draw(KINDS)) for a in axes]
    return Case(*fns, tuple(operands), draw(SEED), LAYOUTS, scales=tuple(POWERS))


def gates(n, values, indices):
    """One-hot rows of what was chosen, weighted and added."""
    return jnp.einsum("tk,tke->te", values, jax.nn.one_hot(indices, n, dtype=values.dtype))


def scattered(n, values, indices):
    rows = jnp.arange(2)[:, None]
    return jnp.zeros((2, n)).at[rows, indices].set(values)


def added(n, values, indices):
    rows = jnp.arange(2)[:, None]
    return jnp.zeros((2, n)).at[rows, indices].add(values)


def taken(n, values, indices, y):
    return jnp.take_along_axis(y, indices, 1)


def picked(n, values, indices, w):
    """Matrices of the chosen, and their sum."""
    return jnp.einsum("tk,tkd->td", values, w[indices])


def counted(n, values, indices):
    """Places in a queue: how many before chose the same."""
    hot = jax.nn.one_hot(indices, n, dtype=values.dtype)
    before = jnp.cumsum(hot, 0) - hot
    return jnp.sum(before * hot, 1)


def moved(n, values, indices, y):
    return jnp.take_along_axis(y, jnp.squeeze(jnp.expand_dims(indices, 0), 0), 1)


def sliced(n, values, indices, y):
    first = lax.slice(indices, (0, 0), (2, n // 3))
    return jnp.take_along_axis(y, first, 1)


def clamped(n, values, indices, y):
    return jnp.take_along_axis(y, jnp.clip(indices, 0, n - 1), 1)


def switched(n, values, indices, y):
    again = jnp.where(values > 0, indices, indices)
    return jnp.take_along_axis(y, again, 1)


def shared(n, values, indices):
    """How often each was chosen in all rows, at each place; the weights are those of one row."""
    hot = jax.nn.one_hot(indices, n, dtype=values.dtype)
    return jnp.einsum("k,ke->e", values[0], hot.sum(0)), hot.sum((0, 1))


def weighed(n, values, indices, x, y):
    """Rows are weighed and added before the others: the product keeps both axes of a match."""
    hot = jax.nn.one_hot(indices, n, dtype=values.dtype)
    rows = jnp.einsum("tke,ts->ske", hot, x)
    return jnp.einsum("k,ske->se", values[0], rows), jnp.einsum("ske,e->sk", rows, y)


def turned(n, values, indices, y):
    """The same with the axes in another order, and one more in front."""
    hot = jax.nn.one_hot(indices, n, dtype=values.dtype).transpose(2, 0, 1)[None]
    return jnp.einsum("aetk,ea->tk", hot, y)


def of_both(n, values, indices):
    """Whether each was chosen, as bits and by the greatest."""
    hot = [jax.nn.one_hot(indices, n, dtype=dtype) for dtype in (bool, values.dtype)]
    return jnp.any(hot[0], 1), jnp.max(hot[1], 1)


def compared(n, values, indices):
    return (indices < n // 3).astype(values.dtype) * values


def raw(n, values, indices):
    return indices


def odd(n, values, indices):
    return indices % 2


def own_number(n, values, indices, y):
    return y[indices * 2 % n]


READ = {
    "one_hot": followed(gates),
    "product": followed(weighed, (2, 3), (EXPERTS,)),
    "scatter": followed(scattered),
    "scatter-add": followed(added),
    "take_along_axis": followed(taken, (2, EXPERTS)),
    "rows of a table": followed(picked, (EXPERTS, DOUBLE)),
    "places in a queue": followed(counted),
    "moved": followed(moved, (2, EXPERTS)),
    "the first": followed(sliced, (2, EXPERTS)),
    "clamped": followed(clamped, (2, EXPERTS)),
    "switched": followed(switched, (2, EXPERTS)),
    "in all rows": followed(shared),
    "turned": followed(turned, (EXPERTS, 1)),
    "chosen at all": followed(of_both),
    "compared": followed(compared),
}
REFUSED = {
    "returned": followed(raw),
    "remainder": followed(odd),
    "arithmetic": followed(own_number, (EXPERTS, 2)),
}
CASES = {"top_k": {"": alone()}, "choice": READ}
