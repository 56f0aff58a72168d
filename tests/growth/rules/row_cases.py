"""Cases of tables of copies: whose rows are picked by constants that differ."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, Leaf, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

INT = np.int32
KINDS = st.sampled_from(["free", "free", "plain"])
axis = st.sampled_from([2, DOUBLE, HALF_MORE, Sum((DOUBLE, 1))])


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
    "gather": {"other constants": picked(), "other constants, contracted": picked(also=True)},
}

BUCKETS = (Leaf("rows", 3, 6), 2)


def constants(small, big):
    """Rows that constants pick in two programs."""
    pick = lambda index: lambda x: x[index]
    return pick(np.array(small)), pick(np.array(big))


# The small function, the big one, their operands, and what the refusal says.
REFUSED = {
    "one row for two": (
        *constants([0, 1, 2], [3, 4, 4]), [BUCKETS],
        "row 4 of the big one would have to be a copy of two rows, 1 and 2",
    ),
    "other rows later": (*constants([0, 1, 0], [0, 3, 3]), [BUCKETS], "two rows, 0 and 1"),
    "out of order": (*constants([0, 2, 1], [0, 1, 4]), [BUCKETS], "old rows would be out of order"),
    "no place": (*constants([0, 2], [3, 4]), [BUCKETS], "rows 3 and 4, which are copies of old"),
    "out of bounds": (*constants([1, 3], [1, 6]), [BUCKETS], "more than one positive factor"),
}  # fmt: skip
