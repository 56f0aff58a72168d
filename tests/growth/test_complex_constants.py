"""Complex constants beside real parameters, as where a weight is made complex by `w + 0j`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(16, 3))
USES = {
    "w + 0j": lambda p: p["w"] + 0j,
    "w + i": lambda p: p["w"] + 1j,
    "w - i": lambda p: p["w"] - 1j,
    "w · i": lambda p: p["w"] * 1j,
    "w / (2 + i)": lambda p: p["w"] / (2 + 1j),
    "(w + 0j)²": lambda p: (p["w"] + 0j) ** 2,
    "(w + 1)^i": lambda p: (jnp.abs(p["w"]) + 1.0) ** 1j,
    "w · exp(iv)": lambda p: p["w"] * jnp.exp(1j * p["v"]),
    "w + 0j − its mean": lambda p: (p["w"] + 0j) - (p["w"] + 0j).mean(1, keepdims=True),
    "where": lambda p: jnp.where(jnp.eye(len(p["v"])) > 0, p["w"] + 0j, p["w"] * 1j),
    "complex(w, 0)": lambda p: jax.lax.complex(p["w"], jnp.zeros_like(p["w"])),
}


def draw(width):
    rng = np.random.default_rng(width)
    shapes = {"in": (3, width), "w": (width, width), "v": (width,), "out": (width, 2)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_growth(use):
    with jax.numpy_dtype_promotion("standard"):
        fn = lambda p, x: jnp.real(jnp.fft.rfft(x @ p["in"], axis=0) @ use(p)) @ p["out"]
        plan = growth.plan(fn, fn, draw(4), draw(8), X)
        grown = plan.grow(draw(4), key=jax.random.key(0))
        np.testing.assert_allclose(fn(grown, X), fn(draw(4), X), rtol=1e-11, atol=1e-12)
