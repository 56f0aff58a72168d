"""Layers of Flax Linen as they come, at widths that are multiples and at others."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.zoo.building import randomised
from trainkit import growth

RNG = np.random.default_rng(0)
SEQUENCE = jnp.asarray(RNG.normal(size=(2, 6, 4)), jnp.float32)
IMAGE = jnp.asarray(RNG.normal(size=(2, 6, 6, 3)), jnp.float32)
FRAMES = IMAGE[:, None].repeat(3, 1)
FLAT = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
TOKENS = jnp.asarray(RNG.integers(0, 7, (2, 5)))


def recurrent(cell):
    return lambda x, n: nn.RNN(cell(n))(x)


def stream(x, d, h):
    x = nn.Dense(d)(x)
    return nn.LayerNorm()(x + nn.SelfAttention(num_heads=h, qkv_features=d)(nn.LayerNorm()(x)))


def attend(tokens, d, n):
    embed = nn.Embed(n, d)
    return embed.attend(nn.gelu(nn.Dense(d)(embed(tokens))))


def cross(x, width, h):
    x = nn.Dense(8)(x)
    return nn.MultiHeadDotProductAttention(num_heads=h, qkv_features=width)(x, x)


def activations(x, n):
    kinds = (nn.elu, nn.selu, nn.celu, nn.softplus, nn.soft_sign, nn.relu6, nn.leaky_relu,
             nn.log_sigmoid, nn.hard_sigmoid, nn.hard_swish, nn.hard_tanh, nn.PReLU())  # fmt: skip
    return sum(f(nn.Dense(n)(x)) for f in kinds)


def between(layer):
    """A layer of b channels behind a convolution of a channels."""
    return lambda x, a, b: layer(b)(nn.relu(nn.Conv(a, (3, 3))(x)))


LAYERS = {
    "attention": (cross, SEQUENCE, (4, 2), [(8, 4), (12, 4)]),
    "self-attention": (stream, SEQUENCE, (8, 2), [(16, 2), (16, 4)]),
    "lstm": (recurrent(nn.LSTMCell), SEQUENCE, (4,), [(8,), (6,)]),
    "optimised lstm": (recurrent(nn.OptimizedLSTMCell), SEQUENCE, (4,), [(6,)]),
    "gru": (recurrent(nn.GRUCell), SEQUENCE, (4,), [(8,), (6,)]),
    "mgu": (recurrent(nn.MGUCell), SEQUENCE, (4,), [(6,)]),
    "simple cell": (recurrent(nn.SimpleCell), SEQUENCE, (4,), [(6,)]),
    "both directions": (
        lambda x, n: nn.Bidirectional(nn.RNN(nn.GRUCell(n)), nn.RNN(nn.GRUCell(n)))(x),
        SEQUENCE, (4,), [(8,)]),
    "convolutional lstm": (
        lambda x, n: nn.RNN(nn.ConvLSTMCell(n, (3, 3)))(x), FRAMES, (4,), [(8,)]),
    "local": (between(lambda b: nn.ConvLocal(b, (3, 3))), IMAGE, (4, 5), [(6, 7)]),
    "transposed": (
        between(lambda b: nn.ConvTranspose(b, (3, 3), strides=(2, 2))), IMAGE, (4, 5), [(6, 7)]),
    "circular": (
        between(lambda b: nn.Conv(b, (3, 3), padding="CIRCULAR")), IMAGE, (4, 5), [(6, 7)]),
    "grouped": (
        between(lambda b: nn.Conv(b, (3, 3), feature_group_count=2)), IMAGE, (4, 4), [(8, 8)]),
    "causal": (
        lambda x, n: nn.Conv(n, (3,), kernel_dilation=2, padding="CAUSAL")(x),
        SEQUENCE, (4,), [(6,)]),
    "weight norm": (
        lambda x, a, b: nn.WeightNorm(nn.Dense(b))(nn.tanh(nn.Dense(a)(x))),
        FLAT, (4, 5), [(8, 10), (6, 5), (4, 7)]),
    "spectral norm": (
        lambda x, a, b: nn.SpectralNorm(nn.Dense(b))(nn.tanh(nn.Dense(a)(x)), update_stats=False),
        FLAT, (4, 5), [(8, 10)]),
    "instance norm": (
        lambda x, n: nn.relu(nn.InstanceNorm()(nn.Conv(n, (3, 3))(x))), IMAGE, (4,), [(6,)]),
    "attend": (attend, TOKENS, (4, 7), [(8, 7), (6, 7)]),
    "general": (
        lambda x, a, b: nn.DenseGeneral(3, axis=(-2, -1))(nn.tanh(nn.DenseGeneral((a, b))(x))),
        SEQUENCE, (2, 3), [(3, 5)]),
    "einsum": (
        lambda x, n: nn.gelu(nn.Einsum((4, n), "btd,da->bta")(x)), SEQUENCE, (4,), [(6,)]),
    "maxout": (
        lambda x, a, k: nn.Dense(a * k)(x).reshape(-1, a, k).max(-1), FLAT, (4, 3),
        [(6, 3), (4, 6)]),
    "glu": (lambda x, n: nn.glu(nn.Dense(n)(x)), FLAT, (8,), [(12,)]),
    "activations": (activations, FLAT, (4,), [(7,)]),
    "standardize": (
        lambda x, n: nn.standardize(nn.Dense(n)(x)), FLAT, (4,), [(8,), (7,)]),
    "pools": (
        lambda x, n: nn.avg_pool(nn.max_pool(nn.Conv(n, (3, 3))(x), (2, 2)), (3, 3)),
        IMAGE, (4,), [(6,)]),
}  # fmt: skip
ALWAYS = {"convolutional lstm", "weight norm", "standardize"}


def net(body):
    class Net(nn.Module):
        sizes: tuple[int, ...]

        @nn.compact
        def __call__(self, x):
            y = body(x, *self.sizes)
            return y if body is attend else nn.Dense(3)(y)

    return Net


@pytest.mark.parametrize(
    "name", [n if n in ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in LAYERS]
)
@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")
def test_layer_is_kept(name):
    # Flax's average pool divides a float by a count, which the strict promotion of types refuses.
    with jax.numpy_dtype_promotion("standard"):
        is_kept(name)


def is_kept(name):
    body, x, small, wider = LAYERS[name]
    model = net(body)
    shapes = jax.eval_shape(model(small).init, jax.random.key(0), x)
    params = randomised(shapes)
    wanted = np.asarray(jax.jit(model(small).apply)(params, x))
    for sizes in wider:
        big = jax.eval_shape(model(sizes).init, jax.random.key(0), x)
        plan = growth.plan(model(small).apply, model(sizes).apply, shapes, big, x)
        grown = plan.grow(params, key=jax.random.key(1))
        found = np.asarray(jax.jit(model(sizes).apply)(grown, x))
        # float32 rounding, relative to the scale of the outputs.
        assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max(), sizes


def test_a_spectral_norm_between_fixed_values_is_refused():
    """W/σ has one spectral norm at every width: duplicated inputs make its output √2 larger."""
    body, x, small, _ = LAYERS["spectral norm"]
    fixed = lambda x, a, b: nn.tanh(body(x, a, b))
    model = net(fixed)
    small_shapes, big_shapes = (
        jax.eval_shape(model(s).init, jax.random.key(0), x) for s in (small, (8, 5))
    )
    with pytest.raises(growth.GrowthError, match=r"factors that differ by 1\.414"):
        growth.plan(model(small).apply, model((8, 5)).apply, small_shapes, big_shapes, x)
