"""Cases of factorisations and of solutions of systems, many at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

many = st.sampled_from([2, DOUBLE, HALF_MORE])
side = st.sampled_from([2, 2, Sum((1, 1)), DOUBLE])
KINDS = st.sampled_from(["free", "plain"])


def matrices(rng, shape):
    """Symmetric and positive definite where they are square."""
    a = rng.normal(size=shape)
    return a @ np.swapaxes(a, -1, -2) + 2 * np.eye(shape[-1]) if shape[-1] == shape[-2] else a


def lower(rng, shape):
    return np.tril(rng.normal(size=shape)) + 3 * np.eye(*shape[-2:])


@st.composite
def factored(draw, fn, values=matrices, more=()):
    n = draw(side)
    operands = [Operand((draw(many), n, n), values, draw(KINDS))]
    operands += [Operand((operands[0].axes[0], *([n] * (rank - 1))), how, draw(KINDS), dtype)
                 for rank, how, dtype in more]  # fmt: skip
    return Case(fn, fn, tuple(operands), draw(SEED))


@st.composite
def triangular(draw, left):
    """Many right-hand sides, also with another scale in each row of what is solved for."""
    n = draw(st.sampled_from([2, Sum((1, 1)), Sum((1, 1)), DOUBLE]))
    other, lead = draw(st.sampled_from([3, DOUBLE, Sum((1, 2))])), draw(many)
    fn = lambda a, b: lax.linalg.triangular_solve(a, b, left_side=left, lower=True)
    rest = (n, other) if left else (other, n)
    kinds = draw(KINDS), draw(KINDS)
    a, b = Operand((lead, n, n), lower, kinds[0]), Operand((lead, *rest), kind=kinds[1])
    return Case(fn, fn, (a, b), draw(SEED))


@st.composite
def pivots(draw):
    axes = draw(many), draw(side)
    fn = lambda p: lax.linalg.lu_pivots_to_permutation(p, p.shape[1] + 1)
    return Case(fn, fn, (Operand(axes, lambda rng, shape: np.zeros(shape), "plain", np.int32),),
                draw(SEED))  # fmt: skip


linalg = lax.linalg
CASES = {
    "cholesky": {"": factored(lambda a: linalg.cholesky(a, symmetrize_input=False))},
    "lu": {"": factored(linalg.lu)},
    "qr": {"": factored(linalg.qr)},
    "eigh": {"": factored(lambda a: linalg.eigh(a, symmetrize_input=False))},
    "eig": {"": factored(lambda a: linalg.eig(a))},
    "svd": {"": factored(linalg.svd)},
    "schur": {"": factored(linalg.schur)},
    "hessenberg": {"": factored(linalg.hessenberg)},
    "householder_product": {
        "": factored(linalg.householder_product, more=[(2, "normal", np.float64)])
    },
    "lu_pivots_to_permutation": {"": pivots()},
    "triangular_solve": {"left": triangular(True), "right": triangular(False)},
}
