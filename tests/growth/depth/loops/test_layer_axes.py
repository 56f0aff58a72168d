"""What a loop over layers runs over: parameters with their layers still apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.ir.unknown import called_back
from trainkit import growth
from trainkit.growth.depth.loops.layer_axes import layer_axes, stacked
from trainkit.growth.ir.program import Folder

W, X = jnp.ones((4, 3, 2)), jnp.ones(3)
WAYS = {  # and the axes that come out, whether 0 stays 0, and whether it is the parameter itself
    "as it is": (lambda w: w, (0, 1, 2), True, True),
    "transposed": (lambda w: w.transpose(2, 0, 1), (2, 0, 1), True, True),
    "at another precision": (lambda w: w.astype(jnp.bfloat16), (0, 1, 2), True, True),
    "scaled": (lambda w: w * 2, (0, 1, 2), True, False),
    "squashed": (lambda w: jnp.tanh(w), (0, 1, 2), True, False),
    "an exponential": (lambda w: jnp.exp(w), (0, 1, 2), False, False),
    "shifted": (lambda w: 1 + w, (0, 1, 2), False, False),
    "summed up over layers": (lambda w: jnp.cumsum(w, 0), None, False, False),
    "mixed": (lambda w: w + w[::-1], None, False, False),
    "an unknown function": (lambda w: called_back(w), None, False, False),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_follows_a_parameter(name):
    way, axes, zero, same = WAYS[name]
    fn = lambda w, x: lax.scan(lambda c, w: (c * jnp.sum(w).astype(c.dtype), None), x, way(w))[0]
    program = Folder().flatten(jax.make_jaxpr(fn)(W, X))
    (loop,) = [eqn for eqn in program.equations if eqn.name == "scan"]
    (over,) = [v for v in loop.ins if v.aval.ndim == 3]
    fact = stacked(program).of(over)
    if axes is None:
        assert fact.input < 0
        assert layer_axes(program) == {}
        return
    assert (fact.input, fact.axes, fact.zero, fact.same) == (0, axes, zero, same)
    assert layer_axes(program) == {0: (axes[0], loop.params["length"])}


def model(way):
    def fn(params, x):
        block = lambda x, w: (x + jnp.tanh(x @ w["up"]) @ w["down"], None)
        return lax.scan(block, x, {name: way(w) for name, w in params.items()})[0]

    return fn


def params(layers):
    draw = lambda i, *shape: jnp.asarray(np.random.default_rng(i).normal(size=shape))
    return {"up": draw(0, layers, 4, 6), "down": draw(1, layers, 6, 4)}


@pytest.mark.parametrize("way", [jnp.tanh, lambda w: 2 * w], ids=["tanh", "scaled"])
def test_new_layers_do_nothing_where_0_stays_0_on_its_way_into_the_loop(way, x64):
    fn, x = model(way), jnp.ones((2, 4))
    plan = growth.plan(fn, fn, params(2), params(3), x)
    grown = plan.grow(params(2), key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, x), fn(params(2), x), rtol=1e-12)


def test_new_layers_are_refused_where_0_does_not_stay_0(x64):
    fn = model(jnp.exp)
    with pytest.raises(growth.GrowthError, match="the carry still changes"):
        growth.plan(fn, fn, params(2), params(3), jnp.ones((2, 4)))
