"""Cases of what moves elements about: shapes, parts of an axis, axes put together."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, ODD, Leaf, Prod, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

KINDS = st.sampled_from(["free", "free", "free", "plain"])
FOUR = Leaf("four", 4, 8)


@st.composite
def of_one(draw, sized, *axes, kinds=KINDS):
    """One operand with axes that are drawn; `sized(sizes)` makes the function at those sizes."""
    specs_drawn = tuple(draw(a) for a in axes)
    small, big = zip(*map(specs.sizes, specs_drawn), strict=True)
    choice = draw(SEED)
    fns = [sized(np.random.default_rng(choice), i, (small, big)) for i in (0, 1)]
    return Case(*fns, (Operand(specs_drawn, kind=draw(kinds)),), draw(SEED))


def reshaped(rng, i, sizes):
    """Merges the first two axes, splits the first into the factors it has, or turns all about."""
    (a, _), (c, _) = sizes
    way = rng.integers(3)
    shape = sizes[i]
    if way == 0:
        return lambda x: x.reshape(shape[0] * shape[1])
    if way == 1:
        first = 2 if a % 2 == c % 2 == 0 else 1
        return lambda x: x.reshape(first, shape[0] // first, shape[1])
    first, last = (a // 2, c // 2) if a % 2 == c % 2 == 0 else (a, c)
    return lambda x: x.reshape((first, last)[i], -1)


def transposed(rng, i, sizes):
    order = rng.permutation(len(sizes[0]))
    return lambda x: lax.transpose(x, order)


def broadcast(rng, i, sizes):
    n = (2, int(rng.choice([2, 4])))[i]
    shape, dims = ((n, *sizes[i]), (1, 2)) if rng.random() < 0.5 else ((*sizes[i], n), (0, 1))
    return lambda x: lax.broadcast_in_dim(x, shape, dims)


def of_ones(rng, i, sizes):
    shape = (sizes[i][0], (2, int(rng.choice([2, 4])))[i])
    return lambda x: lax.broadcast_in_dim(x[:, :1], shape, (0, 1))


def squeezed(rng, i, sizes):
    return lambda x: lax.squeeze(x, (1,))


def unsqueezed(rng, i, sizes):
    d = int(rng.integers(-1, 3))
    return lambda x: lax.expand_dims(x, (d,))


def sliced(rng, i, sizes):
    """Of the whole, of a segment, of every second, of a fixed axis, of any part."""
    n, m = (s[0] for s in sizes)
    ways = [((0, n, 1), (0, m, 1)), ((0, n // 2, 1), (0, m // 2, 1)),
            ((n // 2, n, 1), (m // 2, m, 1)), ((n % 2, n, 2), (m % 2, m, 2)),
            ((0, n - 1, 1), (0, n - 1, 1)), ((0, n, 1), (0, n, 1)), ((1, n, 1), (1, m, 1)),
            ((0, n, 2), (0, m, 2))]  # fmt: skip
    start, stop, step = ways[rng.integers(len(ways))][i]
    return lambda x: lax.slice(x, (start, 0), (stop, x.shape[1]), (step, 1))


def split(rng, i, sizes):
    n, m = (s[0] for s in sizes)
    first = int(rng.integers(1, n)) if n > 1 else n
    firsts = first, int(rng.choice([first, m // 2, m - (n - first)]))
    rest = (n, m)[i] - firsts[i]
    return lambda x: lax.split(x, [firsts[i], rest], 0)


def tiled(rng, i, sizes):
    reps = [(2, 2), (2, 4), (1, 2), (1, 1), (3, 6)][rng.integers(5)][i]
    return lambda x: jnp.tile(x, (reps, 1))


@st.composite
def put_together(draw, join, *, alike: bool):
    """Operands that are joined along axis 0; along axis 1 they are of one size."""
    other = draw(specs.anything)
    first = draw(specs.anything)
    operands = []
    for _ in range(draw(st.integers(2, 3))):
        along = first if alike else draw(specs.anything)
        axes = (draw(st.sampled_from([along, along, specs.plain(along)])),
                draw(st.sampled_from([other, specs.plain(other)])))  # fmt: skip
        operands.append(Operand(axes, kind=draw(st.sampled_from(["free", "free", "const"]))))
    if all(o.kind == "const" for o in operands):
        operands[0] = operands[0]._replace(kind="free")
    fn = lambda *xs: join(xs)
    return Case(fn, fn, tuple(operands), draw(SEED))


PADS = (
    ((1, 0, 0), (1, 0, 0)), ((0, 1, 0), (0, 2, 0)), ((1, 1, 1), (1, 1, 1)), ((0, -1, 0),) * 2,
    ((2, 0, 0), (4, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 1, 0)),
)  # fmt: skip


@st.composite
def padded(draw):
    axes = draw(specs.anything), draw(specs.anything)
    low, inner = draw(st.sampled_from(PADS)), draw(st.sampled_from([(0, 0, 0), (1, 1, 0)]))
    value = Operand(
        (),
        draw(st.sampled_from(["normal", lambda rng, shape: np.zeros(shape)])),
        draw(st.sampled_from(["number", "number", "free", "plain"])),
        ratio=draw(st.sampled_from([1.0, 2.0])),
    )
    fns = [lambda x, v, c=c: lax.pad(x, v, (c, inner)) for c in low]
    return Case(*fns, (Operand(axes, kind=draw(KINDS)), value), draw(SEED))


any_axis = specs.anything
halved = st.sampled_from(
    [FOUR, Sum((DOUBLE, DOUBLE)), Prod((2, DOUBLE)), Prod((DOUBLE, 2)), 4, ODD, HALF_MORE, DOUBLE,
     Sum((HALF_MORE, DOUBLE)), Sum((1, 2)), Sum((ODD, 1)), Prod((HALF_MORE, 2)),
     Sum((DOUBLE, 3)), Leaf("eight", 4, 6)]
)  # fmt: skip

CASES = {
    "reshape": {"": of_one(reshaped, halved, any_axis)},
    "transpose": {"": of_one(transposed, any_axis, any_axis, specs.some_leaf)},
    "broadcast_in_dim": {
        "new axis": of_one(broadcast, any_axis, any_axis),
        "of one": of_one(of_ones, any_axis, specs.fixed),
        "an axis of one": of_one(unsqueezed, any_axis, any_axis),
    },
    "squeeze": {"": of_one(squeezed, any_axis, st.just(1), any_axis)},
    "slice": {"": of_one(sliced, halved, any_axis)},
    "split": {"": of_one(split, halved, any_axis)},
    "tile": {"": of_one(tiled, any_axis, any_axis)},
    "concatenate": {"": put_together(partial(lax.concatenate, dimension=0), alike=False)},
    "stack": {"": put_together(lambda xs: jnp.stack(xs, 1), alike=True)},
    "pad": {"": padded()},
}
