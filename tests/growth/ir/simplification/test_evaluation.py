"""What is computed of parameters at 0: only a sum that cancels is 0 up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.checking import exact
from trainkit import growth
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.simplification.evaluation import evaluated, is_one
from trainkit.growth.ir.simplification.identities import ZERO

X = np.random.default_rng(0).normal(size=(5, 4))
SMALL = np.array([1e-17, 3e-17])


def last(fn):
    """What the last equation gives where those before it are evaluated at 0."""
    program = Folder().flatten(jax.make_jaxpr(fn)(jnp.zeros(2)))
    stands = {id(program.ins[0]): ZERO}
    for eqn in program.equations:
        found = evaluated(eqn, [stands.get(id(v), v) for v in eqn.ins])
        stands.update(zip(map(id, eqn.outs), found, strict=True))
    return found[0]


def test_small_numbers_are_not_0(x64):
    for fn in (lambda v: v + SMALL, lambda v: jnp.exp(v - 40), lambda v: (v + 1e-9) * (v + 1e-9)):
        assert last(fn) is not ZERO
        np.testing.assert_allclose(last(fn).value, fn(np.zeros(2)), rtol=1e-12)


def test_what_cancels_is_0(x64):
    assert last(lambda v: jax.nn.softplus(v) - np.log(2.0)) is ZERO
    assert last(lambda v: jnp.exp(v) * np.array([0.1, 0.2]) - np.array([0.1, 0.2])) is ZERO


def gated(gate):
    def fn(p, x):
        h = x @ p["into"]
        for scale in p["scales"]:
            h = h + gate(scale) * jnp.tanh(h)
        return h

    return fn


def sizes(depth):
    one = lambda *shape: np.random.default_rng(depth).normal(1.0, 0.3, size=shape)
    return {"into": one(4, 4), "scales": [one(4)] * depth}


@pytest.mark.parametrize(
    "gate", [lambda v: jnp.sqrt(jnp.square(v + 1e-8)), lambda v: 1e17 * jnp.exp(v - 40)]
)
def test_a_small_number_that_becomes_large_is_no_gate_of_0(gate, x64):
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(gated(gate), gated(gate), sizes(2), sizes(3), X)


def test_a_gate_of_0_up_to_rounding(x64):
    gate = lambda v: jax.nn.softplus(v) - np.log(2.0)
    exact(gated(gate), sizes(2), sizes(3), X)


def test_in_half_precision_only_1_is_1_and_only_0_is_0():
    # 1.02 and 0.98 are three and two units in the last place from 1.
    number = lambda x: jnp.asarray(x, jnp.bfloat16)
    half = lambda fn: last(lambda v: fn(v.astype(jnp.bfloat16)))
    assert not is_one(half(lambda v: jnp.exp(v + number(0.02))))
    assert half(lambda v: number(1.0) - (v + number(0.98))) is not ZERO
    assert is_one(half(lambda v: number(2.0) * jax.nn.sigmoid(v)))
    assert half(lambda v: number(1.0) - jnp.exp(v)) is ZERO


def test_a_factor_of_half_precision_that_is_near_1_is_no_identity():
    def fn(p, x):
        h = (x @ p["into"]).astype(jnp.bfloat16)
        for scale in p["scales"]:
            scale = scale.astype(jnp.bfloat16)
            h = h * jnp.exp(scale + jnp.asarray(0.02, jnp.bfloat16)) + jnp.tanh(h) * scale
        return h

    single = lambda depth: jax.tree.map(jnp.float32, sizes(depth))
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, single(2), single(3), jnp.float32(X))
