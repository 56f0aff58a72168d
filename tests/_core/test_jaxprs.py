"""Jaxprs of both kinds, in every place where an equation may keep one."""

import jax
import jax.numpy as jnp
import pytest

from trainkit._core import jaxprs

X = jnp.arange(1.0, 4.0)
INNER = ("cond", "cosh", "sinh", "tan")


@jax.custom_vjp
def own(x):
    return jnp.sinh(x)


own.defvjp(lambda x: (own(x), x), lambda x, g: (g,))


def solve(x):
    return jax.lax.custom_linear_solve(
        lambda y: 2 * y, x, lambda matvec, b: jnp.tan(b), symmetric=True
    )


INSIDE = {
    "jit": (jax.jit(jnp.sinh), "sinh"),
    "remat": (jax.checkpoint(jnp.sinh), "sinh"),
    "custom_vjp": (own, "sinh"),
    "custom_linear_solve": (solve, "tan"),
    "scan": (lambda x: jax.lax.scan(lambda c, x: (jnp.sinh(c), x), x[0], x), "sinh"),
    "while": (lambda x: jax.lax.while_loop(lambda x: jnp.tan(x[0]) > 0, jnp.sinh, x), "tan"),
    "the last of two branches": (
        lambda x: jax.lax.cond(x[0] > 0, jnp.sinh, jnp.cosh, x),
        "sinh",
    ),
    "a loop in a loop": (
        lambda x: jax.lax.fori_loop(
            0, 2, lambda i, x: jax.lax.while_loop(lambda y: y[0] < 9, jnp.sinh, x), x
        ),
        "sinh",
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_equations_of_bodies_are_found(name):
    fn, wanted = INSIDE[name]
    closed = jax.make_jaxpr(fn)(X)
    inner, _ = jaxprs.opened(closed)
    for jaxpr in (closed, inner):
        assert wanted in [eqn.primitive.name for eqn in jaxprs.equations(jaxpr)]


def test_an_equation_comes_before_its_bodies_and_what_follows_it_behind_them():
    fn = lambda x: jnp.tan(jax.lax.cond(x[0] > 0, jnp.sinh, jnp.cosh, x))
    names = [eqn.primitive.name for eqn in jaxprs.equations(jax.make_jaxpr(fn)(X))]
    assert [n for n in names if n in INNER] == ["cond", "cosh", "sinh", "tan"]


def test_opened_gives_constants_with_their_variables():
    table = jnp.arange(3.0) ** 2
    inner, consts = jaxprs.opened(jax.make_jaxpr(lambda x: x + table)(X))
    assert len(consts) == len(inner.constvars) == 1
    assert (consts[0] == table).all()


def test_a_replacement_is_of_the_line_of_what_it_replaces_and_computes_the_same():
    (eqn,) = jax.make_jaxpr(jnp.sinh)(X).eqns
    table = jnp.arange(3.0)
    closed = jaxprs.at_line(jax.make_jaxpr(lambda x: jnp.tan(x) + table)(X), eqn)
    assert {e.source_info for e in closed.eqns} == {eqn.source_info}
    (found,) = jax.core.eval_jaxpr(*jaxprs.opened(closed), X)
    assert jnp.allclose(found, jnp.tan(X) + table)
