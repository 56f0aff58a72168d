"""Leaves that several loops run over, or one loop twice: new rows are one thing everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.checking import exact
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(4)
X = RNG.normal(size=(5, 4))


def dense(h, w):
    return jax.nn.relu(h @ w)


def residual(h, w):
    return h + jnp.tanh(h @ w)


def film(h, f):
    return jax.nn.relu(h * f[0] + f[1])


def scaled(h, f):
    return h + f.sum(0) * h


def both(h, rows):
    return jax.nn.relu(residual(dense(h, rows[0]), rows[1]))


def one_after_the_other(*layers):
    """Loops over the same leaf."""

    def fn(p, x):
        h = x @ p["into"]
        for layer in layers:
            over = lambda h, row, layer=layer: (layer(h, row), None)
            h = lax.scan(over, jax.nn.relu(h), p["layers"])[0]
        return h @ p["from"]

    return fn


def twice(turned):
    """A loop that reads a leaf as two operands."""

    def fn(p, x):
        w = p["layers"]
        rows = w, jnp.swapaxes(w, 1, 2) if turned else w
        h = lax.scan(lambda h, row: (both(h, row), None), jax.nn.relu(x @ p["into"]), rows)[0]
        return h @ p["from"]

    return fn


def sizes(depth, width, pairs):
    one = lambda *shape: jnp.asarray(RNG.normal(0.2, 0.6, size=shape))
    layer = (2, width) if pairs else (width, width)
    return {"into": one(4, width), "from": one(width, 2), "layers": one(depth, *layer)}


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize(
    ("fn", "pairs"),
    [
        pytest.param(one_after_the_other(residual, dense), False, id="0, then an identity"),
        pytest.param(one_after_the_other(dense, residual), False, id="an identity, then 0"),
        pytest.param(one_after_the_other(film, scaled), True, id="parts, then 0"),
        pytest.param(twice(False), False, id="in one loop"),
        pytest.param(twice(True), False, id="in one loop, turned"),
    ],
)
def test_two_values_of_one_leaf_are_refused(fn, pairs, width):
    """Each loop alone has new iterations that change nothing, at another value of the leaf."""
    with pytest.raises(growth.GrowthError, match="cannot be identities"):
        growth.plan(fn, fn, sizes(2, 4, pairs), sizes(3, width, pairs), X)


@pytest.mark.parametrize("width", [4, 8])
def test_one_value_for_two_loops(width):
    fn = one_after_the_other(residual, residual)
    exact(fn, sizes(2, 4, False), sizes(3, width, False), X)
