"""Shared weights that are written out and used more often, together with widths."""

import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

X = np.random.default_rng(9).normal(size=(4, 5)).astype(np.float32)


def unrolled(passes, tail=0):
    def fn(p, x):
        h = x @ p["enter"]
        for _ in range(passes):
            y = h - h.mean(-1, keepdims=True)
            h = h + jnp.tanh(y @ p["up"] + p["b"]) @ p["down"]
        for _ in range(tail):
            h = jnp.tanh(h @ p["mix"])
        return h @ p["out"]

    return fn


def draw(d, hidden):
    rng = np.random.default_rng(d + hidden)
    shapes = {"enter": (5, d), "up": (d, hidden), "b": (hidden,), "down": (hidden, d),
              "mix": (d, d), "out": (d, 2)}  # fmt: skip
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tail", [0, 1])
@pytest.mark.parametrize("big", [(4, 9), (8, 6), (8, 12)])
@pytest.mark.parametrize("passes", [(1, 2), (2, 3), (2, 6)])
def test_the_old_number_of_passes_computes_the_old_function(passes, big, tail):
    n, m = passes
    x, small, wide = X.astype(np.float64), draw(4, 6), draw(*big)
    plan = growth.plan(unrolled(n, tail), unrolled(m, tail), small, wide, x, how="stack")
    grown = plan.grow(small, key=0)
    assert plan.depth == "stack"
    assert plan.proof == "assumed"
    before = unrolled(n, tail)(small, x)
    np.testing.assert_allclose(
        unrolled(n, tail)(grown, x), before, rtol=1e-11
    )  # even shares of 2, 3
    assert np.abs(unrolled(m, tail)(grown, x) - before).max() > 1e-3


def test_without_an_operator_the_error_says_what_can_be_done():
    with pytest.raises(growth.GrowthError) as caught:
        growth.plan(unrolled(2), unrolled(3), draw(4, 6), draw(8, 12), X)
    assert "perhaps shared weights are used more often" in str(caught.value)
    assert "how='stack' keeps the parameters" in str(caught.value).splitlines()[-1]
