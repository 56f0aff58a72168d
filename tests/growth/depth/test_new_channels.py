"""New layers whose results are concatenated: a DenseNet gets deeper, and is exact at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.states import linen_state, outputs
from trainkit import growth

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
TX = optax.adamw(1e-2)


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


class Layer(nn.Module):
    rate: int

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.relu(nn.BatchNorm(use_running_average=not train, param_dtype=jnp.float64)(x))
        y = nn.Conv(self.rate, (3, 3), param_dtype=jnp.float64)(y)
        return jnp.concatenate([x, y], -1)


class DenseBlocks(nn.Module):
    layers: tuple[int, ...]
    rate: int = 3
    stem: int = 4

    @nn.compact
    def __call__(self, x, train=False):
        norm = lambda x: nn.relu(
            nn.BatchNorm(use_running_average=not train, param_dtype=jnp.float64)(x)
        )
        x = nn.Conv(self.stem, (3, 3), param_dtype=jnp.float64)(x)
        for block, count in enumerate(self.layers):
            for i in range(count):
                x = Layer(self.rate, name=f"block_{block}_layer_{i}")(x, train)
            if block < len(self.layers) - 1:  # a transition
                x = nn.Conv(self.stem, (1, 1), param_dtype=jnp.float64)(norm(x))
                x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(2, param_dtype=jnp.float64)(norm(x).mean((1, 2)))


@pytest.mark.parametrize(
    "big",
    [{"layers": (2, 3)}, {"layers": (3, 2)}, {"layers": (4, 3)}, {"layers": (2, 3), "stem": 8},
     {"layers": (3, 3), "rate": 6}],
    ids=str,
)  # fmt: skip
def test_densenet(big):
    small, big = DenseBlocks((2, 2)), DenseBlocks(**big)
    state = linen_state(small, IMAGES, TX)
    grown, way = growth.grow(state, small, big, IMAGES, tx=TX, with_map=True)
    before, after = outputs(small, state, IMAGES), outputs(big, grown, IMAGES)
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-13)
    assert way.proof == "reduced"
    fresh = jax.eval_shape(lambda: big.init(jax.random.key(0), IMAGES))
    assert jax.tree.map(jnp.shape, grown.params) == jax.tree.map(jnp.shape, fresh["params"])
    assert jax.tree.map(jnp.shape, grown.opt_state) == jax.tree.map(
        lambda s: s.shape, jax.eval_shape(TX.init, grown.params)
    )
    variance = grown.model_state["batch_stats"]["BatchNorm_1"]["var"]
    assert (variance > 0).all()
    variables = {"params": grown.params, "batch_stats": grown.model_state["batch_stats"]}

    def loss(p):
        return jnp.sum(jnp.square(big.apply({**variables, "params": p}, IMAGES)))

    read = jax.jit(jax.grad(loss))(grown.params)["Dense_0"]["kernel"]
    assert (
        jnp.abs(read).sum(1) > 0
    ).mean() > 0.5  # new channels learn, except those behind a ReLU at 0


def listed(p, x):
    """Every layer reads the list of all results before it."""
    found = [x @ p["enter"]]
    for layer in p["layers"]:
        found.append(jnp.tanh(jnp.concatenate(found, -1) @ layer["w"] + layer["b"]))
    return jnp.concatenate(found, -1) @ p["out"]


def draw(depth, rate=3, width=4):
    rng = np.random.default_rng(depth + 10 * rate + 100 * width)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape))
    layers = [{"w": f(width + i * rate, rate), "b": f(rate)} for i in range(depth)]
    return {"enter": f(5, width), "layers": layers, "out": f(width + depth * rate, 2)}


@pytest.mark.parametrize("big", [(3,), (5,), (3, 6), (3, 3, 8), (3, 5), (4, 3, 7)], ids=str)
def test_lists_of_results(big):
    x, small = jnp.asarray(np.random.default_rng(1).normal(size=(6, 5))), draw(2)
    plan = growth.plan(listed, listed, small, draw(*big), x)
    for how in ("uneven", "noise", "zero_out", "even"):
        grown = plan.grow(small, key=0, how=how)
        np.testing.assert_allclose(listed(grown, x), listed(small, x), rtol=1e-11, atol=1e-12)
    assert growth.Plan.from_json(plan.to_json()) == plan
    assert "layers/2" in str(plan)
    assert "out" in plan.explain("out")
    certificate = plan.realise(0).certificate(listed, listed, small, x, tx=TX)
    assert certificate.forward_error["float64"] < 1e-11


def test_what_reads_new_channels_otherwise_is_refused():
    """A mean over the channels is another one with more of them."""
    mean = lambda p, x: listed({**p, "out": jnp.ones_like(p["out"]) / p["out"].shape[0]}, x)
    normal = lambda p, x: jax.nn.softmax(
        jnp.concatenate([x, *(jnp.tanh(x @ w) for w in p["layers"])], -1)
    )[..., :2]
    with pytest.raises(growth.GrowthError):
        growth.plan(mean, mean, draw(2), draw(3), np.ones((6, 5)))
    sizes = lambda n: {"layers": [jnp.ones((5, 3))] * n}
    with pytest.raises(growth.GrowthError):
        growth.plan(normal, normal, sizes(2), sizes(3), np.ones((6, 5)))
