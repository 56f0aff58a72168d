"""Growth between stages: exact operators keep the function, from shapes alone, under one jit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from experiments.progressive_lm.model import Transformer
from experiments.progressive_mnist.models import CNN, MLP
from trainkit.growth.errors import GrowthError
from trainkit.growth.operators import operator
from trainkit.progressive.transition.grow import grown
from trainkit.progressive.transition.state_growth import StageModel

TX = optax.adamw(1e-3)


def build(module):
    return trainkit.from_linen(module, optax.softmax_cross_entropy_with_integer_labels)


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def images():
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    return {"image": x, "label": np.zeros(3, np.int32)}


def text():
    tokens = np.random.default_rng(0).integers(0, 11, (2, 6)).astype(np.int32)
    return {"tokens": tokens, "targets": tokens}


def randomised(state):
    """Biases and scales that are not 0 and 1, and moments that are not 0."""
    noise = lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype)
    params = jax.tree.map(noise, state.params)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own Adam needs it
        _, opt_state = TX.update(params, state.opt_state, params)
    return state.replace(params=params, opt_state=opt_state)


def grow(small, big, batch, how="preserve", reset=False):
    a, b = build(small), build(big)
    before, like = randomised(a.state(TX, batch, 0)), b.state(TX, batch, 1)
    growth = grown(
        StageModel(small, a, shapes(before)),
        StageModel(big, b, shapes(like)),
        shapes(batch),
        tx=TX,
        how=operator(how),
        reset=reset,
        key=jax.random.key(2),
    )
    after = jax.jit(growth.apply)(before)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, like)
    return growth, (before, after), (a.predict(before, batch), b.predict(after, batch))


def lm(width, depth):
    return Transformer(11, width, depth, head_size=8)


@pytest.mark.parametrize(
    ("small", "big", "batch"),
    [
        (MLP((4,)), MLP((8, 12)), images),
        (CNN((2, 3), 4), CNN((4, 6), 8), images),
        pytest.param(lm(8, 1), lm(16, 3), text, marks=pytest.mark.slow),
        (lm(8, 0), lm(8, 2), text),
    ],
    ids=["mlp", "cnn", "transformer", "from no block"],
)
def test_width_and_depth_keep_the_function(small, big, batch):
    growth, _, (before, after) = grow(small, big, batch())
    assert growth.exact
    scale = float(jnp.abs(before).max())
    assert float(jnp.abs(before - after).max()) <= 5e-6 * scale  # rounding of float32


def test_new_layers_and_copied_inputs_are_named():
    growth, _, _ = grow(MLP((4,)), MLP((8, 8)), images())
    assert set(growth.map.new) == {"hidden_1/kernel", "hidden_1/bias"}
    # What reads a doubled axis has c = 1/2, what writes one c = 1.
    assert growth.map.rates == {"hidden_1/kernel": 0.5, "logits/kernel": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stack", "interpose", "middle", "last", "rms", "stack+rms"])
def test_operators_that_change_the_function_say_so(how):
    growth, _, (before, after) = grow(lm(8, 2), lm(16, 4), text(), how)
    assert not growth.exact
    assert float(jnp.abs(before - after).max()) > 1e-3


def test_stacking_repeats_the_layers_and_rms_keeps_their_scale():
    _, (before, after), _ = grow(lm(8, 2), lm(8, 4), text(), "stack")
    for new, old in ((2, 0), (3, 1)):
        jax.tree.map(
            np.testing.assert_array_equal,
            after.params[f"block_{new}"],
            before.params[f"block_{old}"],
        )
    _, (before, after), _ = grow(MLP((4,)), MLP((8,)), images(), "rms")
    old, new = (np.asarray(s.params["logits"]["kernel"]) for s in (before, after))
    # Σ c² over the copies of a unit is 1 as for the unit itself: √ρ with Σ ρ = 1.
    np.testing.assert_allclose((new**2).sum(0), (old**2).sum(0), rtol=1e-5)


def test_moments_are_carried_or_reset():
    for reset in (False, True):
        _, (_, after), _ = grow(MLP((4,)), MLP((8,)), images(), reset=reset)
        mu = after.opt_state[0].mu["hidden_0"]["kernel"]
        assert bool((mu == 0).all()) is reset


class PostNorm(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        for i in range(self.depth):
            y = nn.Dense(8, name=f"up_{i}")(x)
            x = nn.LayerNorm(name=f"norm_{i}")(x + nn.gelu(y))
        return nn.Dense(10)(x)


class Tanh(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)[:, :8]
        for i in range(self.depth):
            x = nn.tanh(nn.Dense(8, name=f"layer_{i}")(x))
        return nn.Dense(10, name="out")(x)


@pytest.mark.parametrize("model", [PostNorm, Tanh])
def test_an_identity_that_cannot_be_is_refused(model):
    with pytest.raises(GrowthError, match=r"(?s)cannot be an identity.*how='stack'"):
        grow(model(1), model(2), images())


def test_what_stands_between_the_two_is_found_in_the_fields():
    # One more layer and other widths: in between are two layers of the old width.
    growth, _, _ = grow(MLP((4,)), MLP((8, 12, 16)), images())
    assert "hidden_2/kernel: eye" in growth.text
