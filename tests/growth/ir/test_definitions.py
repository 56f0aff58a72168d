"""Primitives of other libraries: Equinox's are known, others are defined, unknown ones refused."""

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

from trainkit import growth
from trainkit._core import compat


@pytest.fixture
def primitive():
    """The first operand, plus a multiple of the second."""
    made = Primitive("trainkit test of definitions")
    made.def_abstract_eval(lambda x, y, *, by: x)
    yield made
    compat.WRITTEN.pop(made.name, None)


def grown(fn):
    rng = np.random.default_rng(0)
    draw = lambda n: {k: jnp.asarray(rng.normal(size=s)) for k, s in
                      (("in", (3, n)), ("w", (n, n)), ("out", (n, 2)))}  # fmt: skip
    small, x = draw(4), jnp.asarray(rng.normal(size=(5, 3)))
    plan = growth.plan(fn, fn, small, draw(6), x)
    return fn, plan.grow(small, key=jax.random.key(0)), small, x


@pytest.mark.parametrize("given", ["the implementation", "a function"])
def test_a_primitive_is_what_it_is_defined_as(primitive, given, x64):
    def net(p, x):
        return primitive.bind(jnp.tanh(x @ p["in"]), jnp.sin(x @ p["in"]), by=2.0) @ p["out"]

    with pytest.raises(growth.GrowthError, match="no growth rule"):
        grown(net)
    written = lambda x, y, *, by: x + by * y
    if given == "the implementation":
        primitive.def_impl(written)
        growth.define_primitive(primitive)
    else:
        primitive.def_impl(lambda x, y, *, by: np.asarray(x) + by * np.asarray(y))
        growth.define_primitive(primitive, written)
    fn, big, small, x = grown(net)
    np.testing.assert_allclose(fn(big, x), fn(small, x), rtol=1e-12)


def test_what_jax_has_is_not_defined_anew():
    with pytest.raises(ValueError, match="'tanh' must not be a primitive of JAX"):
        growth.define_primitive(jax.lax.tanh_p)


@pytest.mark.parametrize("kind", ["checkpointed", "bounded"])
def test_the_loops_of_equinox_grow(kind, x64):
    """A hidden state that is integrated, as differential equations are in Diffrax."""

    def net(p, x):
        step = lambda h, _: (h + 0.1 * jnp.tanh(h @ p["w"]), None)
        h = jnp.tanh(x @ p["in"])
        h, _ = eqxi.scan(step, h, None, length=4, kind=kind, checkpoints=2)
        return h @ p["out"]

    fn, big, small, x = grown(net)
    np.testing.assert_allclose(fn(big, x), fn(small, x), rtol=1e-12)
