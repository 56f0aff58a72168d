"""Programs whose inputs are cut into parts compute the same, and only what is read in parts is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.simplification.identities import FREE, UNIT, ZERO, Parts
from trainkit.growth.ir.simplification.leaf_parts import in_parts, of_parts

RNG = np.random.default_rng(0)
X, W, B = (RNG.normal(size=s).astype(np.float32) for s in ((2, 3), (3, 8), (8,)))


def flat(fn, *args):
    return Folder().flatten(jax.make_jaxpr(fn)(*args))


def results(program, args):
    """What a flat program computes."""
    known = {id(v): jnp.asarray(x) for v, x in zip(program.ins, args, strict=True)}
    read = lambda v: jnp.asarray(v.value) if isinstance(v, Const) else known[id(v)]
    for eqn in program.equations:
        ins = [read(v) for v in eqn.ins]
        if traits(eqn).elementwise:  # the normal form has no equations that only broadcast
            ins = [jnp.broadcast_to(x, eqn.outs[0].aval.shape) for x in ins]
        found = eqn.raw.primitive.bind(*ins, **eqn.params)
        found = found if eqn.raw.primitive.multiple_results else [found]
        for v, x in zip(eqn.outs, found, strict=True):
            assert v.aval.shape == x.shape, eqn.name
            known[id(v)] = x
    return [read(v) for v in program.outs]


def halves(y):
    first, second = jnp.split(y, 2, -1)
    return first - 2 * second


def bfloat(w):
    return w.astype(jnp.bfloat16).astype(jnp.float32)


# A function of x, w and b, and the axis and the ends of the parts of w and of b.
CUT = {
    "a sum": (lambda x, w, b: halves(x @ w + b), (1, [4, 8]), (0, [4, 8])),
    "a product": (lambda x, w, b: halves(x @ w * b), (1, [4, 8]), (0, [4, 8])),
    "functions": (lambda x, w, b: halves(jnp.tanh(2 * (x @ w) - jnp.exp(b))), (1, [4, 8]),
                  (0, [4, 8])),
    "at another precision": (lambda x, w, b: halves(x @ bfloat(w) + b), (1, [4, 8]),
                             (0, [4, 8])),
    "reshaped": (lambda x, w, b: (x @ w + b).reshape(2, 4, 2)[:, 1], (1, [2, 4, 8]),
                 (0, [2, 4, 8])),
    "transposed": (lambda x, w, b: (w.T @ x.T + b[:, None])[3:5], (1, [3, 5, 8]), (0, [3, 5, 8])),
    "numbers": (lambda x, w, b: x * b[0] + w[1, 0] * b[7], None, (0, [1, 7, 8])),
    "rows of the other operand": (lambda x, w, b: halves((w.T * b[:, None]).T), (1, [4, 8]),
                                  (0, [4, 8])),
    "each one": (lambda x, w, b: sum(n * v for n, v in enumerate(b)) * x, None,
                 (0, list(range(1, 9)))),
    "members": (lambda x, w, b: jnp.split(jnp.einsum("bi,ib->b", w.T, w) + b, 4)[2], None,
                (0, [2, 4, 6, 8])),
}  # fmt: skip
WHOLE = {
    "a result": lambda x, w, b: (halves(x @ w + b), b),
    "also read whole": lambda x, w, b: halves(x @ w + b) + w.sum() + b.sum(),
    "overlapping": lambda x, w, b: (x @ w + b)[:, :5] * (x @ w + b)[:, 3:],
    "overlapping slices": lambda x, w, b: b[:5] * b[3:],
    "strided": lambda x, w, b: (x @ w + b)[:, ::2],
    "along two axes": lambda x, w, b: w[:1].sum() + w[:, :1].sum() + b.sum(),
    "reduced": lambda x, w, b: halves(jax.nn.softmax(x @ w + b)),
    "summed over": lambda x, w, b: x[:, :1] + x @ w @ b[:, None],
    "with constants": lambda x, w, b: halves(x @ w * np.arange(8.0, dtype=np.float32)) + b.sum(),
    "in different parts": lambda x, w, b: halves(b * 2) + b[:3].sum() + w.sum(),
}


@pytest.mark.parametrize("case", CUT)
def test_cut(case):
    fn, *cuts = CUT[case]
    program = flat(fn, X, W, B)
    found = in_parts(program, {1, 2})
    ends = {
        (piece.input, piece.axis): [p.stop for p in found.pieces.values() if p.input == piece.input]
        for piece in found.pieces.values()
    }
    wanted = {(i, cut[0]): cut[1] for i, cut in enumerate(cuts, 1) if cut is not None}
    if case == "members":
        wanted |= {key: found for key, found in ends.items() if key[0] == 1}
    assert ends == wanted
    given = [X, W, B]
    for piece in found.pieces.values():
        part = slice(piece.start, piece.stop)
        given.append(given[piece.input][(slice(None),) * piece.axis + (part,)])
    for i in {piece.input for piece in found.pieces.values()}:
        given[i] = np.full_like(given[i], np.nan)  # those that are cut are not used any more
    for new, old in zip(results(found.program, given), results(program, [X, W, B]), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", WHOLE)
def test_not_cut(case):
    assert in_parts(flat(WHOLE[case], X, W, B), {1, 2}) is None


def test_other_inputs_are_not_cut():
    """Old layers split their values too, and their equations have to stay as they are."""
    program = flat(lambda x, w, b: halves(x @ w + b), X, W, B)
    assert in_parts(program, {2}) is None
    assert in_parts(program, {0}) is None
    assert in_parts(program, {0, 1, 2}).pieces.keys() == {3, 4, 5, 6}


def test_what_inputs_are():
    program = flat(lambda x, w, b: halves(x @ w + b), X, W, B)
    pieces = in_parts(program, {1, 2}).pieces
    assert of_parts({}, pieces) == {}
    assert of_parts({3: ZERO, 4: ZERO, 5: UNIT, 6: ZERO}, pieces) == {
        1: ZERO,
        2: Parts(0, ((4, UNIT), (4, ZERO))),
    }
    assert of_parts({6: ZERO}, pieces) == {2: Parts(0, ((4, FREE), (4, ZERO)))}
