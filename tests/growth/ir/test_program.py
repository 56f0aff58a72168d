"""Flat programs: what is inlined, and which constants are one and the same."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

from trainkit._core.compat import opened
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Folder

X = jnp.ones(3)

# Adds the sum of the constants of a body.
shifted = Primitive("shifted")
shifted.def_abstract_eval(lambda x, *, by: x)
shifted.def_impl(lambda x, *, by: x + opened(by)[1][0].sum())


def flat(fn, *args):
    return Folder().flatten(jax.make_jaxpr(fn)(*args))


def constant(folder, fn):
    """The result of a function without arguments."""
    (out,) = folder.flatten(jax.make_jaxpr(fn)()).outs
    assert isinstance(out, Const)
    return out


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint, jax.custom_jvp, jax.custom_vjp])
def test_calls_are_inlined(call):
    called = call(lambda x: jnp.sinh(x) + 1)
    if call is jax.custom_jvp:
        called.defjvp(lambda x, t: (called(*x), t[0]))
    if call is jax.custom_vjp:
        called.defvjp(lambda x: (called(x), None), lambda _, g: (g,))
    assert [eqn.name for eqn in flat(called, X).equations] == ["sinh", "add"]


def test_a_linear_solve_is_its_solution():
    fn = lambda x: lax.custom_linear_solve(lambda y: 2 * y, x, lambda matvec, b: jnp.tan(b))
    assert [eqn.name for eqn in flat(fn, X).equations] == ["tan"]


def test_dead_equations_go_and_loops_stay():
    def fn(x):
        jnp.tanh(x)
        return lax.fori_loop(0, 2, lambda i, x: jnp.sinh(x), x)

    assert [eqn.name for eqn in flat(fn, X).equations] == ["scan"]


def test_constants_are_the_same_where_they_are_computed_alike():
    folder = Folder()
    fns = (lambda: jnp.arange(4.0) * 2, lambda: jnp.arange(4.0) * 3, lambda: jnp.arange(4.0) * 2)
    first, other, again = (constant(folder, fn).key for fn in fns)
    assert first == again != other


def test_constants_of_bodies_with_other_constants_are_told_apart():
    """The text of a body has none of its constants."""
    tables = [jnp.arange(3.0), jnp.arange(1.0, 4.0)]
    bodies = [jax.make_jaxpr(lambda y, table=table: y + table)(X) for table in tables]
    assert repr(bodies[0]) == repr(bodies[1])
    folder = Folder()
    values = [constant(folder, lambda by=by: shifted.bind(jnp.arange(2.0), by=by)) for by in bodies]
    assert values[0].key != values[1].key
    assert [v.value.tolist() for v in values] == [[3.0, 4.0], [6.0, 7.0]]
