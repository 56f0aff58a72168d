"""One call grows a whole training state: Linen, NNX and plain functions, width and depth."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import trainkit
from tests.growth import zoo
from tests.growth.states import linen_state, outputs, shaken, stepped
from tests.growth.zoo.depth.linen_modules import FLAT, FRAMES, BatchNormBlocks, Perceptron
from tests.growth.zoo.depth.transformers import TOKENS, Tied
from trainkit.growth import GrowthError, grow


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def check(module, big, state, grown, x, tx, **mode):
    a, b = outputs(module, state, x, **mode), outputs(big, grown, x, **mode)
    assert np.abs(a - b).max() <= 1e-12 * np.abs(a).max() + 1e-13
    assert int(grown.step) == 7
    assert jax.random.key_data(grown.rng).tolist() == jax.random.key_data(state.rng).tolist()
    fresh = jax.eval_shape(tx.init, grown.params)
    assert jax.tree.map(jnp.shape, grown.opt_state) == jax.tree.map(lambda s: s.shape, fresh)
    big_shapes = jax.eval_shape(lambda: big.init(jax.random.key(0), x, **mode))
    assert jax.tree.map(jnp.shape, grown.params) == jax.tree.map(
        lambda s: s.shape, big_shapes["params"]
    )


@pytest.mark.parametrize(
    ("small", "big"), [((8,), (16,)), ((8,), (13,)), ((8,), (16, 24)), ((8, 8), (8, 8, 8, 8))]
)
def test_mlp(small, big):
    tx = trainkit.transforms.average_params(optax.adamw(1e-2), 0.9)
    state = linen_state(Perceptron(small), FLAT, tx)
    grown = grow(state, Perceptron(small), Perceptron(big), FLAT, tx=tx)
    check(Perceptron(small), Perceptron(big), state, grown, FLAT, tx)
    # The average of the parameters computes what it computed, too.
    averaged = state.replace(params=state.opt_state.average)
    grown_average = grown.replace(params=grown.opt_state.average)
    a, b = outputs(Perceptron(small), averaged, FLAT), outputs(Perceptron(big), grown_average, FLAT)
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_batch_statistics_follow():
    tx = optax.sgd(0.1, 0.9)
    small, big = BatchNormBlocks(4, 1), BatchNormBlocks(8, 3)
    state = linen_state(small, FRAMES, tx, train=False)
    grown = grow(state, small, big, FRAMES, tx=tx)
    check(small, big, state, grown, FRAMES, tx, train=False)
    mean = grown.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    old = state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    assert set(np.asarray(mean)) == set(np.asarray(old))
    # Momenta of the new blocks are 0, those of the old one are not.
    trace = grown.opt_state[0].trace
    zero = [not np.any(trace[f"block_{i}"]["Conv_0"]["kernel"]) for i in range(3)]
    assert sorted(zero) == [False, True, True]


@pytest.mark.parametrize("stacked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_transformer_in_width_and_depth(stacked):
    tx = optax.adamw(1e-2)
    small, big = (Tied(w, d, h, stacked) for w, d, h in ((8, 2, 2), (16, 4, 4)))
    state = linen_state(small, TOKENS, tx)
    grown, way = grow(state, small, big, TOKENS, tx=tx, how="even+identity", with_map=True)
    check(small, big, state, grown, TOKENS, tx)
    assert way.proof == "reduced"

    def loss(module, params, tokens):
        logits = module.apply({"params": params}, tokens)
        labels = jnp.asarray(np.roll(TOKENS, 1, 1))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def run(module, tx, params, opt_state):
        def step(carry, _):
            params, opt_state = carry
            value, grads = jax.value_and_grad(lambda p: loss(module, p, TOKENS))(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        start = (params, opt_state)
        return jax.jit(lambda c: jax.lax.scan(step, c, None, 8))(start)[1]

    # Exact continuation through width and depth together.
    follow = way.under("params").exact(tx)
    a = run(small, tx, state.params, state.opt_state)
    b = run(big, follow, grown.params, grown.opt_state)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stack", "interpose", "even+last", "zero_out+middle", "rms"])
def test_operators_that_change_the_function(how):
    tx = optax.adam(1e-2)
    small, big = Tied(8, 2, 2), Tied(16, 4, 4)
    state = linen_state(small, TOKENS, tx)
    grown = grow(state, small, big, TOKENS, tx=tx, how=how)
    fresh = jax.eval_shape(tx.init, grown.params)
    assert jax.tree.map(jnp.shape, grown.opt_state) == jax.tree.map(lambda s: s.shape, fresh)
    a, b = outputs(small, state, TOKENS), outputs(big, grown, TOKENS)
    assert np.abs(a - b).max() > 1e-3
    assert np.isfinite(b).all()


class Normalised(nnx.Module):
    def __init__(self, width, *, rngs):
        kwargs = {"rngs": rngs, "param_dtype": jnp.float64}
        self.first = nnx.Linear(5, width, **kwargs)
        self.norm = nnx.BatchNorm(width, **kwargs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width, 3, **kwargs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def test_nnx_module_and_factory():
    small = Normalised(6, rngs=nnx.Rngs(0))
    _, params, _, rest = nnx.split(small, nnx.Param, nnx.RngState, ...)
    params, rest = (shaken(nnx.to_pure_dict(part)) for part in (params, rest))
    tx = optax.adam(1e-2)
    state = stepped(params, rest, tx)
    for big in (Normalised(9, rngs=nnx.Rngs(1)), lambda rngs: Normalised(9, rngs=rngs)):
        grown = grow(state, small, big, FLAT, tx=tx)

        def run(width, state):
            made = Normalised(width, rngs=nnx.Rngs(0))
            graph, _, streams, _ = nnx.split(made, nnx.Param, nnx.RngState, ...)
            module = nnx.merge(graph, state.params, streams, state.model_state)
            module.eval()
            return module(FLAT)

        np.testing.assert_allclose(run(6, state), run(9, grown), atol=1e-12)
        assert grown.opt_state[0].mu["first"]["kernel"].shape == (5, 9)


def test_plain_functions_in_width_and_depth():
    tx, model = optax.lion(1e-2), zoo.REGISTRY["residual layers"]
    fn, x = model.at()[0], FLAT
    state = stepped(model.params(), {}, tx)
    options = {"tx": tx, "big_params": model.params(width=6, depth=3)}
    grown = grow(state, fn, fn, x, **options)
    np.testing.assert_allclose(fn(state.params, x), fn(grown.params, x), rtol=1e-12)
    assert len(grown.opt_state[0].mu["layers"]) == 3
    with pytest.raises(GrowthError, match="pass big_params="):
        grow(state, fn, fn, x, tx=tx)


def test_adapted_models():
    """What `trainkit.from_linen` made, and a whole batch as the example."""
    tx = optax.adam(1e-2)
    batch = {"x": FLAT, "label": np.zeros(6, np.int32)}
    wrap = lambda m: trainkit.from_linen(m, optax.softmax_cross_entropy_with_integer_labels)
    state = linen_state(Perceptron((8,)), FLAT, tx)
    grown = grow(state, wrap(Perceptron((8,))), wrap(Perceptron((12,))), batch, tx=tx)
    check(Perceptron((8,)), Perceptron((12,)), state, grown, FLAT, tx)


def test_same_key_same_growth():
    tx = optax.adam(1e-2)
    state = linen_state(Perceptron((8,)), FLAT, tx)
    a, b, c = (
        grow(state, Perceptron((8,)), Perceptron((16,)), FLAT, tx=tx, key=k) for k in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert np.any(a.params["Dense_1"]["kernel"] != c.params["Dense_1"]["kernel"])


def test_bad_input():
    tx = optax.adam(1e-2)
    state = linen_state(Perceptron((8,)), FLAT, tx)
    with pytest.raises(GrowthError, match="the state is not the small model's"):
        grow(state, Perceptron((9,)), Perceptron((16,)), FLAT, tx=tx)
    with pytest.raises(GrowthError):
        grow(state, Perceptron((8,)), Perceptron((4,)), FLAT, tx=tx)
    two = linen_state(Perceptron((8, 8)), FLAT, tx)
    with pytest.raises(GrowthError, match="growth only adds layers") as error:
        grow(two, Perceptron((8, 8)), Perceptron((8,)), FLAT, tx=tx)
    assert str(error.value).endswith("pass the model with fewer layers first")
    with pytest.raises(GrowthError, match="must be a Linen module"):
        grow(state, Perceptron((8,)), 3, FLAT, tx=tx)
    with pytest.raises(ValueError, match="there is no operator 'twice'"):
        grow(state, Perceptron((8,)), Perceptron((16,)), FLAT, tx=tx, how="twice")
