"""What one version of JAX says with one primitive and another with several grows alike in both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth
from trainkit._core.compat import expanded, opened
from trainkit._core.jaxprs import equations

FLAGS = [f for f in ("jax_remat3", "jax_custom_jvp3", "jax_custom_vjp3") if f in jax.config.values]


@jax.custom_vjp
def clipped_gradient(x):
    return jnp.tanh(x)


clipped_gradient.defvjp(lambda x: (jnp.tanh(x), None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))
ACTIVATIONS = {
    "log2": lambda x: jnp.log2(1 + x * x),
    "polynomial": lambda x: jnp.polyval(jnp.array([1.0, -2.0, 3.0]), x),
    "sinc": jnp.sinc,
    "derivative of tanh": lambda x: jax.jvp(jnp.tanh, (x,), (x,))[1],
    "second derivative of tanh": jax.grad(lambda x: jax.grad(lambda y: jnp.tanh(y).sum())(x).sum()),
    "interp": lambda x: jnp.interp(x, jnp.arange(3.0), jnp.arange(3.0) ** 2),
    "checkpoint": jax.checkpoint(jnp.tanh),
    "custom_jvp": jax.nn.softplus,
    "custom_vjp": clipped_gradient,
    "loop": lambda x: jax.lax.scan(lambda c, _: (jax.nn.relu(c) + 1, None), x, None, length=2)[0],
    "branch": lambda x: jax.lax.cond(x[0, 0] > 0, jax.nn.relu, jax.nn.softplus, x),
}  # fmt: skip


@pytest.fixture(params=["", *FLAGS])
def flag(request, x64):
    if not request.param:
        yield request.param
        return
    jax.config.update(request.param, True)
    yield request.param
    jax.config.update(request.param, False)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_it_grows(name, flag):
    def fn(params, x):
        q, k, v = jnp.einsum("bi,sij->sbj", x, params["in"]) + params["b"][:, None]
        return (ACTIVATIONS[name](q) + jax.nn.relu(k) * v) @ params["out"]

    rng = np.random.default_rng(0)
    draw = lambda n: {k: jnp.asarray(rng.normal(size=s)) for k, s in
                      (("in", (3, 3, n)), ("b", (3, n)), ("out", (n, 2)))}  # fmt: skip
    small, x = draw(4), jnp.asarray(rng.normal(size=(5, 3)))
    plan = growth.plan(fn, fn, small, draw(6), x)
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, x), fn(small, x), rtol=1e-12)
    guessed = {leaf.path for leaf in plan.leaves if leaf.calibrated}
    assert guessed == ({"in", "b"} if name == "custom_vjp" else set())


def test_every_equation_is_of_an_old_primitive_once_expanded(flag):
    for name, fn in ACTIVATIONS.items():
        for eqn in equations(jax.make_jaxpr(fn)(jnp.ones((5, 3)))):
            body = expanded(eqn)
            if body is not None:
                assert [v.aval for v in opened(body)[0].outvars] == [v.aval for v in eqn.outvars], (
                    name
                )
