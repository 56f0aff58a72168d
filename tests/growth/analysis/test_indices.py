"""Mixtures of experts through `plan`: what is chosen, with its copies, stays what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.checking import small
from tests.growth.zoo import mixtures
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")


def test_what_orders_experts_gets_the_same_noise_for_all_copies():
    """Noise over a router's inputs must not break the ties between an expert's copies."""
    case = small("capacity, first choices first", "float64")
    big_fn, shapes = case.big("all")
    plan = growth.plan(case.fn, big_fn, case.params, shapes, *case.inputs)
    grown = plan.grow(case.params, key=jax.random.key(0), how="noise")
    router = np.asarray(grown["router"])
    np.testing.assert_array_equal(router[:, ::2], router[:, 1::2])
    assert (router[::2] != router[1::2]).all()  # over the copies of its inputs there is noise
    assert (np.asarray(grown["down"])[::2] != np.asarray(grown["down"])[1::2]).any()


def test_weights_that_are_picked_are_read_as_weights():
    case = small("softmax, top_k, renormalised; weights gathered", "float64")
    big_fn, shapes = case.big("all")
    plan = growth.plan(case.fn, big_fn, case.params, shapes, *case.inputs)
    kinds = {name: leaf.kind for name, leaf in plan.mup().leaves.items()}
    assert kinds["up"] == kinds["down"] == "hidden"
    assert "queries" not in str(plan.mup())


def layers(k, depth_of):
    """Layers of experts between two matrices, one after another or in a scan."""

    def layer(x, p):
        top, which = jax.lax.top_k(x @ p["router"], k)
        y = mixtures.picked(p, x, which)
        return x + jnp.einsum("tkd,tk->td", y, jax.nn.softmax(top)), None

    def fn(p, x):
        x = x @ p["in"]
        if depth_of == "scan":
            return jax.lax.scan(layer, x, p["layers"])[0] @ p["out"]
        for each in p["layers"]:
            x, _ = layer(x, each)
        return x @ p["out"]

    return fn


@pytest.mark.parametrize("depth_of", ["list", pytest.param("scan", marks=pytest.mark.slow)])
def test_experts_widths_and_layers_grow_together(depth_of):
    names = ("router", "up", "up_b", "down", "down_b")

    def params(depth, seed=0, **sizes):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
        of = mixtures.shapes(**sizes)
        ends = {"in": draw(*of["in"]), "out": draw(*of["out"])}
        if depth_of == "scan":
            return {**ends, "layers": {n: draw(depth, *of[n]) for n in names}}
        return {**ends, "layers": [{n: draw(*of[n]) for n in names} for _ in range(depth)]}

    small, big = params(2), params(3, experts=6, width=8, hidden=7)
    x = jnp.asarray(mixtures.TOKENS[0])
    before, after = layers(2, depth_of), layers(4, depth_of)
    plan = growth.plan(before, after, small, big, x)
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(
        jax.jit(after)(grown, x), jax.jit(before)(small, x), rtol=0, atol=1e-12
    )
