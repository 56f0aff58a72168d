"""Backward passes that a model defines itself: gradient factors are exact where they are linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth


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
