"""Published architectures that get more layers, at once with their widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.zoo.building import as_dtype, draw, randomised, rms
from tests.growth.zoo.published.making import relu, sigmoid, softmax
from trainkit import growth


def coupling(p, x):
    """A flow: what is scaled by e⁰ and shifted by 0 stays as it is."""
    a, b = jnp.split(x, 2, -1)
    volume = jnp.zeros(x.shape[:1])
    for layer in p["layers"]:
        scale, shift = jnp.split(jnp.tanh(a @ layer["a"]) @ layer["b"], 2, -1)
        b = b * jnp.exp(scale) + shift
        volume = volume + scale.sum(-1)
    return jnp.concatenate([a, b], -1) @ p["out"] + volume[:, None]


def carried(p, x):
    """A loop that carries a penalty beside its stream."""

    def layer(carry, w):
        x, penalty = carry
        h = jnp.tanh(x @ w["a"]) @ w["b"]
        return (x + h, penalty + jnp.square(h).mean()), None

    (x, penalty), _ = jax.lax.scan(layer, (x @ p["in"], 0.0), p["layers"])
    return x @ p["out"] + penalty


def attention(p, x):
    """Products of three arrays, whose order depends on the size of a head."""
    x = x @ p["in"]
    for layer in p["layers"]:
        q, k, v = jnp.einsum("btd,cdhe->cbthe", rms(x, layer["g"]), layer["qkv"])
        w = softmax(jnp.einsum("bqhe,bkhe->bhqk", q, k) / jnp.sqrt(1.0 * q.shape[-1]))
        x = x + jnp.einsum("bhqk,bkhe,hed->bqd", w, v, layer["o"])
    return x @ p["out"]


def wavenet(p, x):
    """Gated convolutions that add to a stream and to what is read at the end."""
    x, skips = x @ p["in"], 0.0
    for layer in p["layers"]:
        y = jax.lax.conv_general_dilated(
            x, layer["k"], (1,), [(1, 0)], dimension_numbers=("NWC", "WIO", "NWC")
        )
        a, b = jnp.split(y, 2, -1)
        y = jnp.tanh(a) * sigmoid(b)
        skips, x = skips + y @ layer["skip"], x + y @ layer["res"]
    return relu(skips) @ p["out"]


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float64)


def stack(n, layer):
    return [dict(layer) for _ in range(n)]


FLOW, SEQUENCE = draw(6, 4, 6), draw(3, 2, 5, 3)
# function, sizes -> parameters, sizes before and after, the input, what must be 0.
CASES = {
    "coupling": (
        coupling,
        lambda n, e: {"layers": stack(n, {"a": struct(3, e), "b": struct(e, 6)}),
                      "out": struct(6, 2)},
        [(2, 5), (4, 8)], FLOW, {"layers/1/b", "layers/3/b"},
    ),
    "carried": (
        carried,
        lambda n, e: {"in": struct(3, e), "out": struct(e, 2),
                      "layers": {"a": struct(n, e, 5), "b": struct(n, 5, e)}},
        [(2, 4), (3, 8)], SEQUENCE, {"layers/b"},
    ),
    "attention": (
        attention,
        lambda n, e: {"in": struct(3, 4), "out": struct(4, 2),
                      "layers": stack(n, {"g": struct(4), "qkv": struct(3, 4, 2, e),
                                          "o": struct(2, e, 4)})},
        [(2, 3), (4, 9)], SEQUENCE, {"layers/1/o", "layers/3/o"},
    ),
    "wavenet": (
        wavenet,
        lambda n, d: {"in": struct(3, d), "out": struct(4, 2),
                      "layers": stack(n, {"k": struct(2, d, 10), "skip": struct(5, 4),
                                          "res": struct(5, d)})},
        [(2, 4), (3, 8)], SEQUENCE, {"layers/1/res", "layers/1/skip"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "coupling" else pytest.mark.slow) for n in CASES],
)
def test_deeper_and_wider_at_once(name, x64):
    def run(params, x):
        with jax.numpy_dtype_promotion("standard"):
            return fn(params, x)

    fn, shapes, (before, after), x, zeroed = CASES[name]
    small = randomised(as_dtype(shapes(*before), np.float64))
    plan = growth.plan(run, run, small, shapes(*after), x)
    assert set(plan.zeroed) == zeroed
    big = plan.grow(small, key=jax.random.key(0))
    old, new = (np.asarray(jax.jit(run)(p, x)) for p in (small, big))
    assert np.abs(new - old).max() <= 1e-12 * np.abs(old).max()


def test_every_layer_has_an_axis_that_grows_to_no_multiple():
    """Queries and keys are of one parameter: new units of each layer's heads are 0."""
    shapes = CASES["attention"][1]
    x = jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)
    small, big = (as_dtype(shapes(20, e), np.float32) for e in (3, 5))
    plan = growth.plan(attention, attention, small, big, x)
    assert [axis.layout for axis in plan.grown_axes] == ["append"] * 20
