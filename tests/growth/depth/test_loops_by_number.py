"""Loops that pick their layers by number, with the stacked parameters outside or in the carry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from trainkit import growth

X = np.random.default_rng(0).normal(size=(3, 5))


pytestmark = pytest.mark.usefixtures("x64")


def block(w, h):
    return h + jnp.tanh(h @ w["up"] + w["b"]) @ w["down"]


def at(p, i, look=lambda a, i: a[i]):
    return jax.tree.map(lambda a: look(a, i), p["layers"])


def count(p):
    return p["layers"]["up"].shape[0]


def over_numbers(p, h):
    return lax.scan(lambda h, i: (block(at(p, i), h), None), h, jnp.arange(count(p)))[0]


def for_loop(p, h):
    look = lambda a, i: lax.dynamic_index_in_dim(a, i, keepdims=False)
    return lax.fori_loop(0, count(p), lambda i, h: block(at(p, i, look), h), h)


def sliced(p, h):
    look = lambda a, i: lax.dynamic_slice(a, (i, *[0] * (a.ndim - 1)), (1, *a.shape[1:]))[0]
    return lax.fori_loop(0, count(p), lambda i, h: block(at(p, i, look), h), h)


def taken(p, h):
    look = lambda a, i: jnp.take(a, i, axis=0)
    return lax.fori_loop(0, count(p), lambda i, h: block(at(p, i, look), h), h)


def in_the_carry(p, h):
    step = lambda i, c: (block(at({"layers": c[1]}, i), c[0]), c[1])
    return lax.fori_loop(0, count(p), step, (h, p["layers"]))[0]


def counted(p, h):
    step = lambda c, _: ((block(at(p, c[1]), c[0]), c[1] + 1), None)
    return lax.scan(step, (h, 0), None, length=count(p))[0][0]


def recomputed(p, h):
    return lax.fori_loop(0, count(p), lambda i, h: jax.checkpoint(block)(at(p, i), h), h)


def kept(p, h):
    """The results of the layers and the number of the last one are used, too."""

    def step(c, i):
        h = block(at(p, i), c[0])
        return (h, c[1] + 1), h

    (h, n), every = lax.scan(step, (h, 0), jnp.arange(count(p)))
    return h * n / count(p) + every[-1]


LOOPS = [over_numbers, for_loop, sliced, taken, in_the_carry, counted, recomputed, kept]


def model(loop):
    return lambda p, x: loop(p, x @ p["enter"]) @ p["out"]


def draw(depth, width=4, hidden=5):
    rng = np.random.default_rng(depth + width)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape))
    layers = {"up": f(depth, width, hidden), "b": f(depth, hidden), "down": f(depth, hidden, width)}
    return {"enter": f(5, width), "layers": layers, "out": f(width, 2)}


@pytest.mark.parametrize("loop", LOOPS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("big", [(2, 4, 9), (4, 4, 5), (3, 8, 7)], ids=str)
def test_growth(loop, big):
    if loop is kept and big[0] > 2:
        pytest.skip("its results are used after the loop")
    fn, small = model(loop), draw(2)
    plan = growth.plan(fn, fn, small, draw(*big), X)
    grown = plan.grow(small, key=0)
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=1e-12, atol=1e-13)
    if big[0] > 2:
        assert plan.zeroed == ("layers/down",)
    # The lines are those of the model, not of its normal form.
    assert "test_loops_by_number.py" in plan.explain("layers/up")
    assert "loops.py:" not in plan.explain("layers/up").replace("test_loops", "")


def test_a_table_with_as_many_rows_as_passes():
    """Four positions and four passes: the loop stays as it is if the positions grow."""
    fn = lambda p, x: (
        lax.fori_loop(0, 4, lambda i, h: jnp.tanh(h + p["places"][i]), x @ p["enter"]) @ p["out"]
    )
    make = lambda n, d: {"enter": jnp.ones((5, d)), "places": jnp.ones((n, d)) * 0.3,
                         "out": jnp.ones((d, 2))}  # fmt: skip
    for big in ((7, 3), (7, 6), (4, 6)):
        plan = growth.plan(fn, fn, make(4, 3), make(*big), X)
        grown = plan.grow(make(4, 3), key=0)
        np.testing.assert_allclose(fn(grown, X), fn(make(4, 3), X), rtol=1e-12)


def test_a_loop_that_changes_its_layers_is_not_rewritten():
    """The carry is another array in each pass."""

    def fn(p, x):
        step = lambda i, c: (block(at({"layers": c[1]}, i), c[0]), jax.tree.map(jnp.sin, c[1]))
        return lax.fori_loop(0, count(p), step, (x @ p["enter"], p["layers"]))[0] @ p["out"]

    plan = growth.plan(fn, fn, draw(2), draw(2, 4, 5), X)
    np.testing.assert_allclose(fn(plan.grow(draw(2), how="even"), X), fn(draw(2), X))
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, draw(2), draw(4), X)
