"""Cases of element-by-element primitives: operands alike, of size one, or without axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.harness import Case, Operand

SEED = st.integers(0, 2**32 - 1)


@st.composite
def alike(draw, fn: Callable, *values, dtypes=None, kinds=("free", "free", "plain"), small=None):
    """Operands whose axes are the same in sizes, or 1; each with a structure of its own."""
    rank = draw(st.integers(1, 2))
    axes = [draw(specs.anything) for _ in range(rank)]
    operands = []
    for i, how in enumerate(values):
        mine = tuple(draw(st.sampled_from([a, a, a, specs.plain(a)])) for a in axes)
        if i and draw(st.integers(0, 5)) == 0:
            mine = tuple(draw(st.sampled_from([1, a])) for a in mine)
        dtype = (dtypes or [np.float64] * len(values))[i]
        operands.append(Operand(mine, how, draw(st.sampled_from(kinds)), dtype))
    # Under strict promotion of ranks operands of rank 0 are written out; see `number`.
    return Case(small or fn, fn, tuple(operands), draw(SEED))
