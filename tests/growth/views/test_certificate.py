"""The certificate says what a growth did, in numbers."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.states import linen_state
from tests.growth.zoo.depth.linen_modules import FLAT, Perceptron
from trainkit import growth
from trainkit.growth import Certificate
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.views.measures import dead


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def certificate(how="preserve", small=(8,), big=(16, 16), tx=None):
    tx = tx or optax.adam(1e-2)
    state = linen_state(Perceptron(small), FLAT, tx)
    models = Perceptron(small), Perceptron(big)
    way = growth.grow(state, *models, FLAT, tx=tx, how=how, with_map=True)[1]
    return way.certificate(*models, state, FLAT, tx=tx)


def test_exact_growth():
    c = certificate()
    assert c.forward_error["float64"] < 1e-14
    assert c.forward_error["bfloat16"] < 0.1
    assert c.gradient_residual < 1e-12
    assert c.calibrated == ()
    assert c.new_layers == ("Dense_1/bias", "Dense_1/kernel")
    assert c.parameters == (5 * 8 + 8 + 8 * 3 + 3, 5 * 16 + 16 + 16 * 16 + 16 + 16 * 3 + 3)
    assert c.flops[1] > 2 * c.flops[0]
    assert c.bytes[0] == 8 * 3 * c.parameters[0] + 4
    assert c.warnings == ()
    # Uneven copies have come apart after three steps of Adam.
    assert c.replica_distance[1] > 1e-6


def test_even_copies_are_warned_of():
    c = certificate("even", big=(16,))
    assert c.replica_distance == pytest.approx((0.0, 0.0), abs=1e-12)
    assert any("copies are still equal" in text for text in c.warnings)


def test_global_norm_is_warned_of():
    tx = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))
    c = certificate("noise", big=(16,), tx=tx)
    assert any("clip_by_global_norm" in text for text in c.warnings)
    predicted, actual = c.update_norm
    assert actual == pytest.approx(0.01, rel=1e-6)  # it is clipped again, and shorter than before
    assert abs(predicted - actual) > 1e-4


def test_a_jump_is_reported():
    c = certificate("stack+rms", small=(8, 8), big=(16, 16, 16))
    assert c.forward_error["float64"] > 1e-3
    assert any("the function changed" in text for text in c.warnings)


def test_fresh_units_and_dead_ones():
    c = certificate("zero_out", big=(16,))
    assert c.forward_error["float64"] < 1e-14
    assert c.fresh["Dense_0/kernel"] == 5 * 8
    # Read with 0 at first, but alive at the second probe.
    assert c.dead == ()


def test_update_norm_of_sgd():
    """Plain SGD moves the grown model by f·g[π], exact continuation by c·g[π]."""
    c = certificate("even", big=(16,), tx=optax.sgd(0.1))
    predicted, actual = c.update_norm
    assert predicted > 0
    assert actual > 0
    assert predicted != pytest.approx(actual, rel=1e-3)


def test_json_and_text():
    c = certificate(big=(16,))
    assert Certificate.from_json(c.to_json()) == c
    assert json.loads(c.to_json())["parameters"] == list(c.parameters)
    text = str(c)
    for word in ("outputs", "float64", "dead units", "parameters", "FLOPs", "update norm"):
        assert word in text


def test_dead_units_are_found():
    axis = AxisMap(np.array([0, 1, -1]), np.ones(3), np.ones(3))
    way = MapData({"w": LeafMap((None, axis))})
    grads = {"w": jnp.array([[1.0, 2.0, 0.0], [0.5, 1.0, 0.0]])}
    assert dead(grads, way) == ("w, axis 1: unit 2",)


def test_a_larger_vocabulary_is_certified_on_its_old_entries():
    class Language(nn.Module):
        vocabulary: int

        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(self.vocabulary, 4)
            return embed.attend(nn.gelu(nn.Dense(4)(embed(tokens))))

    tokens, tx = jnp.arange(6).reshape(2, 3), optax.sgd(1e-2)
    state = linen_state(Language(7), tokens, tx)
    models = Language(7), Language(9)
    way = growth.grow(state, *models, tokens, tx=tx, with_map=True)[1]
    found = way.certificate(*models, state, tokens, tx=tx)
    assert found.forward_error["float32"] < 1e-6  # the dtype of Embed's parameters
    assert found.dead == ()
    assert any("7 → 9 entries" in text for text in found.warnings)


def shrunk_and_grown(x, append):
    """A certificate of a plan by hand: GELU, a residual stream, all sizes odd."""

    def net(p, x):
        x = x @ p["in"]
        return (x + jax.nn.gelu(x @ p["up"] + p["b"]) @ p["down"]) @ p["out"]

    def sizes(d, n):
        return {"in": (5, d), "up": (d, n), "b": (n,), "down": (n, d), "out": (d, 3)}

    rng = np.random.default_rng(0)
    small = {name: jnp.asarray(rng.normal(size=s)) for name, s in sizes(4, 6).items()}
    big = {name: jax.ShapeDtypeStruct(s, jnp.float64) for name, s in sizes(8, 9).items()}
    plan = growth.plan(net, net, small, big, x, append=append)
    return plan.realise(jax.random.key(0)).certificate(net, net, small, x, tx=optax.adam(1e-2))


def test_appended_units():
    c = shrunk_and_grown(FLAT, append=[("up", 1)])
    assert c.forward_error["float64"] < 1e-13
    assert c.gradient_residual < 1e-12
    # Three new hidden units: of the columns of `up`, of `b`, and of the rows of `down`.
    assert c.fresh == {"up": 8 * 3, "b": 3, "down": 3 * 8}
    assert c.dead == ()
    assert c.new_layers == ()


def test_strided_pairs():
    """Rotary pairs are spread out, with new ones in between: alive, and told from copies."""

    def turn(x):
        half = x.shape[-1] // 2
        angle = jnp.arange(4.0)[:, None] / 50.0 ** (jnp.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def attend(p, x):
        q, k = turn(x @ p["q"]), turn(x @ p["k"])
        scores = jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]))
        return scores @ x @ p["out"]

    shapes = lambda d: {"q": (5, d), "k": (5, d), "out": (5, 3)}
    rng = np.random.default_rng(0)
    small = {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes(4).items()}
    big = {name: jax.ShapeDtypeStruct(s, jnp.float64) for name, s in shapes(8).items()}
    x = jnp.asarray(rng.normal(size=(2, 4, 5)))
    plan = growth.plan(attend, attend, small, big, x)
    assert {axis.layout for axis in plan.grown_axes} == {"stride"}
    c = plan.realise(jax.random.key(0)).certificate(attend, attend, small, x, tx=optax.adam(1e-2))
    assert c.forward_error["float64"] < 1e-13
    assert c.gradient_residual < 1e-12
    assert set(c.fresh) == {"q", "k"}
    assert c.replica_distance is None
    assert c.dead == ()


def test_deepened():
    c = certificate("even+identity", small=(8, 8), big=(8, 8, 8))
    assert c.forward_error["float64"] < 1e-14
    assert c.gradient_residual < 1e-12
    assert len(c.new_layers) == 2
    assert c.fresh == {}
    assert c.dead == ()


class NormedBlocks(nn.Module):
    """Blocks that end with a norm, which has a scale or not."""

    depth: int
    scaled: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="in")(x)
        for i in range(self.depth):
            h = nn.Dense(4, name=f"out_{i}")(nn.tanh(nn.Dense(8, name=f"hidden_{i}")(x)))
            x = x + nn.RMSNorm(use_scale=self.scaled, name=f"norm_{i}")(h)
        return x


@pytest.mark.parametrize("scaled", [False, True])
def test_a_new_layer_that_jumps_at_its_first_step_is_warned_of(scaled):
    """At 0 a norm divides by √ε alone: what is in front of it has a gradient 1/√ε too large."""
    tx = optax.sgd(0.1)
    models = NormedBlocks(2, scaled), NormedBlocks(3, scaled)
    state = linen_state(models[0], FLAT, tx)
    way = growth.grow(state, *models, FLAT, tx=tx, with_map=True)[1]
    c = way.certificate(*models, state, FLAT, tx=tx)
    assert c.forward_error["float32"] < 1e-6
    steep = [text for text in c.warnings if "first gradient of out_1/" in text]
    assert len(steep) == (not scaled), c.warnings


def test_a_model_that_runs_in_one_precision_alone():
    """A number of NumPy makes float64 of bfloat16, and a convolution takes one dtype."""

    def fn(p, x):
        h = (x @ p["up"]) / np.sqrt(2.0)
        dims = ("NHC", "HIO", "NHC")
        h = jax.lax.conv_general_dilated(h, p["k"], (1,), "SAME", dimension_numbers=dims)
        return jnp.tanh(h) @ p["down"]

    rng = np.random.default_rng(0)
    sizes = lambda n: {"up": (4, n), "k": (3, n, n), "down": (n, 2)}
    small = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in sizes(3).items()}
    big = {name: jax.ShapeDtypeStruct(shape, jnp.float64) for name, shape in sizes(6).items()}
    x = jnp.asarray(rng.normal(size=(2, 5, 4)))
    growths = growth.plan(fn, fn, small, big, x).realise(jax.random.key(0))
    c = growths.certificate(fn, fn, small, x, tx=optax.sgd(0.1))
    assert list(c.forward_error) == ["float64"]
    assert c.forward_error["float64"] < 1e-13
    assert any("does not run in bfloat16" in text for text in c.warnings)
