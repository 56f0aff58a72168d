"""Backward passes that a model defines itself: gradient factors are exact where they are linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.ir.unknown import called_back, strange
from trainkit import growth
from trainkit.growth.ir.custom_gradients import DEPENDENCE, Dependence
from trainkit.growth.ir.dataflow import run
from trainkit.growth.ir.program import Folder


def _with_backward(backward):
    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, x), lambda x, g: (backward(x, g),))
    return identity


def _body(carry, g):
    return carry + g, carry


BACKWARD = {
    "straight through": (lambda x, g: jnp.where(jnp.abs(x) < 1, g, 0), True),
    "reversed": (lambda x, g: -0.3 * g, True),
    "in a loop": (lambda x, g: jax.lax.scan(_body, jnp.zeros_like(g[0]), g)[1], True),
    "clipped": (lambda x, g: jnp.clip(g, -0.01, 0.01), False),
    "normalised": (lambda x, g: g / (jnp.linalg.norm(g) + 1.0), False),
    "decayed": (lambda x, g: g + 0.1 * x, False),
}


@pytest.mark.parametrize("name", list(BACKWARD))
def test_gradient_factors_are_exact_only_where_what_goes_back_is_linear(name, x64):
    backward, linear = BACKWARD[name]
    identity = _with_backward(backward)
    draw = lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).normal(size=shape))
    x = draw(0, 5, 3)

    def fn(params, x):
        return identity(jnp.tanh(x @ params["in"])) @ params["out"]

    small = {"in": draw(1, 3, 4), "out": draw(2, 4, 2)}
    big = {"in": draw(1, 3, 8), "out": draw(2, 8, 2)}
    plan = growth.plan(fn, fn, small, big, x)
    maps = plan.realise(None, "even").leaves
    assert maps["in"].exact_gradient == linear
    assert maps["out"].exact_gradient  # nothing between it and the result
    grown = plan.grow(small, how="even")
    weights = draw(3, 5, 2)
    old, new = (jax.grad(lambda p: jnp.sum(weights * fn(p, x)))(p) for p in (small, grown))
    np.testing.assert_allclose(new["out"], np.repeat(old["out"], 2, 0), rtol=1e-12)
    same = np.allclose(new["in"], np.repeat(old["in"], 2, 1) / 2, rtol=1e-12)
    assert same == linear


LINEAR_IN_THE_FIRST = {
    "scaled": lambda g, x: 2 * g * x,
    "chosen": lambda g, x: jnp.where(x > 0, g, 0.0),
    "carried": lambda g, x: lax.scan(lambda c, x: (c * x, c), g, jnp.stack([x, x]))[1],
    "branched": lambda g, x: lax.cond(x[0] > 0, lambda g: g, lambda g: -g, g),
    "while another counts": lambda g, x: lax.while_loop(
        lambda s: jnp.sum(s[1]) < 9, lambda s: (s[0] * 2, s[1] + 1), (g, x)
    )[0],
    "solved": lambda g, x: lax.linalg.triangular_solve(jnp.diag(x), g[:, None], left_side=True),
    "picked": lambda g, x: g[jnp.argsort(x)],
    "what is unknown, of constants": lambda g, x: called_back(x) * g,
}
NOT_LINEAR = {
    "divided by itself": lambda g, x: g / g,
    "rounded": lambda g, x: g.astype(jnp.int32).astype(jnp.float32),
    "squared": lambda g, x: g * g,
    "shifted": lambda g, x: g + x,
    "shifted in a later iteration": lambda g, x: lax.scan(
        lambda s, _: ((s[1], s[2], -x), None), (-g, g, 2 * g), None, 3
    )[0][0],
    "branched on itself": lambda g, x: lax.cond(g[0] > 0, lambda g: g, lambda g: -g, g),
    "picked by itself": lambda g, x: g[jnp.argsort(g)],
    "while it is small": lambda g, x: lax.while_loop(
        lambda s: jnp.sum(s) < 9, lambda s: s * 2, g
    ),
    "an unknown primitive": lambda g, x: strange(g),
    "an unknown function": lambda g, x: called_back(g),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LINEAR_IN_THE_FIRST, *NOT_LINEAR])
def test_linearity(name):
    fn = (LINEAR_IN_THE_FIRST | NOT_LINEAR)[name]
    program = Folder().flatten(jax.make_jaxpr(fn)(jnp.ones(3), jnp.arange(3.0)))
    facts = run(program, [Dependence.LINEAR, Dependence.CONSTANT], DEPENDENCE)
    wanted = Dependence.LINEAR if name in LINEAR_IN_THE_FIRST else Dependence.OTHER
    assert {facts.of(v) for v in program.outs} == {wanted}
