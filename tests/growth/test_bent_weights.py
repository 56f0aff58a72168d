"""Weights that pass through a function before they are summed over: noise would not cancel there.

A weight that is read as |w| or √w² is no term of a linear sum, though the powers add up to 1. It
is read as it is as well, so that it would be split over copies if it might be.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(5, 3))
root = lambda w: jnp.sqrt(jnp.abs(w))
BENT = {
    "size": jnp.abs,
    "root of the square": lambda w: jnp.sqrt(jnp.square(w)),
    "product of roots": lambda w: root(w) * root(w),
    "square over size": lambda w: jnp.square(w) / jnp.abs(w),
    "a power of a power": lambda w: jnp.cbrt(w**3),
    "leaky": lambda w: jnp.maximum(w, 0.1 * w),
    "clipped": lambda w: jnp.clip(w, min=0.0),
    "size and sign": lambda w: jnp.abs(w) * jnp.sign(w),
    "largest so far": lambda w: jax.lax.cummax(w, 1),
    "largest of both": lambda w: jnp.max(jnp.stack([w, -w]), 0),
    "in order": lambda w: jnp.sort(w, 1),
    "chosen by itself": lambda w: jnp.where(w > 0, w, 0.1 * w),
    "to the norm": lambda w: w / jnp.sqrt(jnp.sum(w * w, 0)),
    "rounded": lambda w: jnp.round(w),
}


@pytest.mark.parametrize("name", BENT)
def test_every_operator_keeps_the_function(name):
    def net(p, x):
        h = jnp.tanh(x @ p["in"])
        return h @ BENT[name](p["a"]) + h @ p["a"] + p["b"]

    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    few = {"in": draw(3, 4), "a": draw(4, 3), "b": draw(3)}
    # Some are so small that noise gives them the other sign.
    small = {**few, "a": few["a"] * jnp.array([1.0, 1e-3, 1.0, 1e-3])[:, None]}
    big = {"in": draw(3, 12), "a": draw(12, 3), "b": draw(3)}
    plan = growth.plan(net, net, small, big, X)
    wanted = net(small, X)
    for how in ("even", "uneven", "noise", "zero_out"):
        grown = plan.grow(small, key=jax.random.key(0), how=how)
        np.testing.assert_allclose(net(grown, X), wanted, atol=1e-12, err_msg=how)
