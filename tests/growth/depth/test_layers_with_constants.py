"""New layers behind the last, where layers differ in a constant: dilations, rates, parities."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from trainkit import growth

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 20, 3))
pytestmark = pytest.mark.usefixtures("x64")


def convolved(x, kernel, dilation=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), [((kernel.shape[0] - 1) * dilation, 0)], rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )  # fmt: skip


def dilated(params, x):
    h, skip = convolved(x, params["in"]), 0.0
    for i, p in enumerate(params["layers"]):
        a = jnp.tanh(convolved(h, p["f"], 2**i) + p["bf"])
        a = a * jax.nn.sigmoid(convolved(h, p["g"], 2**i) + p["bg"])
        skip = skip + convolved(a, p["skip"]) + p["bs"]
        h = h + convolved(a, p["res"]) + p["br"]
    return convolved(jax.nn.relu(skip), params["out"])


def sizes(depth, stream=4, gated=6, skip=5):
    f = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    layer = lambda: {
        "f": f(2, stream, gated), "g": f(2, stream, gated), "bf": f(gated), "bg": f(gated),
        "skip": f(1, gated, skip), "bs": f(skip), "res": f(1, gated, stream), "br": f(stream),
    }  # fmt: skip
    return {"in": f(2, 3, stream), "out": f(1, skip, 2), "layers": [layer() for _ in range(depth)]}


def off(old, new):
    return jnp.abs(new - old).max() / jnp.abs(old).max()


@pytest.mark.parametrize(
    "wider", [{}, {"gated": 9}, {"stream": 8, "gated": 12, "skip": 10}, {"stream": 6}]
)
@pytest.mark.parametrize(("before", "after"), [(3, 4), (2, 4), (1, 3)])
def test_dilations(before, after, wider):
    small = sizes(before)
    plan = growth.plan(dilated, dilated, small, sizes(after, **wider), X)
    assert plan.proof == "reduced"
    rest = {path.split("/")[1] for path in plan.zeroed}
    assert rest == {str(i) for i in range(before, after)}
    assert off(dilated(small, X), dilated(plan.grow(small, key=0), X)) < 1e-12


class CompactWaveNet(nn.Module):
    """Every layer is written out in one module, so that names do not say where it starts."""

    depth: int
    stream: int = 4
    skip: int = 5

    @nn.compact
    def __call__(self, x):
        conv = lambda *a, **k: nn.Conv(*a, padding="CAUSAL", param_dtype=jnp.float64, **k)
        h, total = conv(self.stream, (1,))(x), 0.0
        for i in range(self.depth):
            a = jnp.tanh(conv(self.stream, (2,), kernel_dilation=2**i)(h))
            a = a * nn.sigmoid(conv(self.stream, (2,), kernel_dilation=2**i)(h))
            total = total + conv(self.skip, (1,))(a)
            h = h + conv(self.stream, (1,))(a)
        return conv(2, (1,))(nn.relu(conv(self.skip, (1,))(nn.relu(total))))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"depth": 3}, {"depth": 4}),
        ({"depth": 2}, {"depth": 4, "stream": 8, "skip": 10}),
        ({"depth": 3}, {"depth": 4, "stream": 6}),
        ({"depth": 3}, {"depth": 6, "skip": 7}),
    ],
)
def test_a_compact_wavenet_in_width_and_depth_at_once(before, after):
    small, big, tx = CompactWaveNet(**before), CompactWaveNet(**after), optax.adamw(1e-3)
    params = small.init(jax.random.key(0), X)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * RNG.normal(size=p.shape), params)
    state = trainkit.TrainState.create(params, tx)
    grown, growth_map = growth.grow(state, small, big, X, tx=tx, with_map=True)
    old, new = small.apply({"params": params}, X), big.apply({"params": grown.params}, X)
    assert growth_map.proof == "reduced"
    assert off(old, new) < 1e-12


def rated(params, x):
    """A loop over layers and over a table of constants, one for each layer."""
    rates = jnp.asarray(1.0 / (1.0 + np.arange(params["up"].shape[0])))
    step = lambda h, p: (h + p[2] * jnp.tanh(h @ p[0]) @ p[1], None)
    return jax.lax.scan(step, x @ params["in"], (params["up"], params["down"], rates))[0]


@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 3), (3, 5)])
@pytest.mark.parametrize("width", [5, 10])
def test_a_loop_over_layers_with_a_table_of_constants(before, after, width):
    f = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    of = lambda n, w: {"in": f(3, 4), "up": f(n, 4, w), "down": f(n, w, 4)}
    small = of(before, 5)
    plan = growth.plan(rated, rated, small, of(after, width), X)
    grown = plan.grow(small, key=0)
    assert not grown["down"][before:].any()
    assert off(rated(small, X), rated(grown, X)) < 1e-12


def test_constants_that_depend_on_the_number_of_layers_are_refused():
    def scaled(params, x):
        h = x @ params["in"]
        for i, p in enumerate(params["layers"]):
            h = h + jnp.tanh(h @ p["up"]) @ p["down"] / (len(params["layers"]) + i)
        return h

    f = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    of = lambda n: {"in": f(3, 4), "layers": [{"up": f(4, 4), "down": f(4, 4)} for _ in range(n)]}
    plan = growth.plan(scaled, scaled, small := of(2), of(4), X)
    assert off(scaled(small, X), scaled(plan.grow(small, key=0), X)) < 1e-12  # factors make up

    def phased(params, x):
        h = x @ params["in"]
        for i, p in enumerate(params["layers"]):
            h = h + jnp.sin(h @ p["up"] + len(params["layers"]) + i) @ p["down"]
        return h

    with pytest.raises(growth.GrowthError, match="constant"):
        growth.plan(phased, phased, of(2), of(4), X)
