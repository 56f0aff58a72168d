"""New layers with several matrices of which one carries the value, and layers in frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4))
GRAPH = (RNG.random((5, 5)) < 0.5) + np.eye(5)


def sage(act, own_first):
    """Mean aggregation over neighbours: act(h · own + mean of neighbours · w + b)."""

    def fn(p, x):
        h = x @ p["in"]
        for layer in p["layers"]:
            own = h @ layer["own"]
            near = (GRAPH @ h) / GRAPH.sum(1, keepdims=True) @ layer["near"]
            h = act((own + near if own_first else near + own) + layer["b"])
        return h @ p["out"]

    return fn


def modulated(p, x):
    """FiLM: a context scales and shifts every unit."""
    h, context = x @ p["in"], jnp.tanh(x @ p["context"])
    for layer in p["layers"]:
        scale, shift = jnp.split(context @ layer["film"] + layer["bf"], 2, -1)
        h = jax.nn.relu((h @ layer["w"] + layer["b"]) * (1 + scale) + shift)
    return h @ p["out"]


def fourier(p, x):
    """A residual Fourier layer: three modes are mixed, the others are 0."""
    h = (x[..., None] * p["in"][0]).reshape(5, 4, -1)
    for layer in p["layers"]:
        modes = jnp.fft.rfft(h, axis=1)
        weights = jax.lax.complex(layer["re"], layer["im"])
        mixed = jnp.einsum("bmi,mio->bmo", modes[:, :3], weights)
        mixed = jnp.zeros_like(modes).at[:, :3].set(mixed)
        h = h + jax.nn.gelu(jnp.fft.irfft(mixed, 4, axis=1) + h @ layer["w"] + layer["b"])
    return h[:, 0] @ p["out"]


def draw(depth, layer, **outside):
    f = lambda shape: jnp.asarray(RNG.normal(0.4, 1.0, size=shape))  # few units are dead
    named = lambda shapes: {name: f(shape) for name, shape in shapes.items()}
    return {**named(outside), "layers": [named(layer) for _ in range(depth)]}


def graph(depth, n=4):
    layer = {"own": (n, n), "near": (n, n), "b": (n,)}
    return draw(depth, layer, **{"in": (4, n), "out": (n, 2)})


def film(depth, n=4):
    layer = {"film": (6, 2 * n), "bf": (2 * n,), "w": (n, n), "b": (n,)}
    return draw(depth, layer, **{"in": (4, n), "context": (4, 6), "out": (n, 2)})


def spectral(depth, n=4):
    layer = {"re": (3, n, n), "im": (3, n, n), "w": (n, n), "b": (n,)}
    return draw(depth, layer, **{"in": (1, n), "out": (n, 2)})


CASES = {
    "own first": (sage(jax.nn.relu, True), graph),
    "neighbours first": (sage(jax.nn.relu, False), graph),
    "film": (modulated, film),
    "fourier": (fourier, spectral),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("after", "width"), [(3, 4), (4, 8), (3, 6)])
def test_depth(name, after, width):
    fn, shapes = CASES[name]
    small = shapes(2)
    plan = growth.plan(fn, fn, small, shapes(after, width), X)
    assert plan.proof == "reduced"
    old, new = fn(small, X), fn(plan.grow(small, key=0), X)
    assert jnp.abs(new - old).max() < 1e-12 * jnp.abs(old).max() > 0


@pytest.mark.parametrize("own_first", [True, False])
def test_layers_between_other_functions_are_refused(own_first):
    fn = sage(jnp.tanh, own_first)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, graph(2), graph(3), X)
