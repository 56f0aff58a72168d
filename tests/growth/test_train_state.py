"""One call grows a whole training state: Linen, NNX and plain functions, width and depth."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import trainkit
from trainkit.growth import GrowthError, grow
from trainkit.step.state import TrainState


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


F64 = {"param_dtype": jnp.float64}


def randomised(tree, seed=0):
    """Biases, scales and statistics too, so that nothing is 0 or 1 by construction."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + jnp.asarray(np.abs(rng.normal(size=x.shape)) * 0.1, x.dtype), tree
    )


def stepped(params, model_state, tx, seed=1):
    """A state that has been trained: moments that are not 0."""
    state = TrainState.create(params, tx, model_state=model_state, rng=5)
    grads = randomised(jax.tree.map(jnp.zeros_like, params), seed)
    _, opt_state = tx.update(grads, state.opt_state, params)
    return state.replace(opt_state=opt_state, step=jnp.int32(7))


def linen_state(module, x, tx, **mode):
    variables = randomised(
        dict(jax.jit(functools.partial(module.init, **mode))(jax.random.key(0), x))
    )
    return stepped(variables.pop("params"), variables, tx)


def outputs(module, state, x, **mode):
    run = jax.jit(functools.partial(module.apply, **mode))
    return run({"params": state.params, **state.model_state}, x)


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


class MLP(nn.Module):
    features: tuple

    @nn.compact
    def __call__(self, x):
        for size in self.features:
            x = nn.relu(nn.Dense(size, **F64)(x))
        return nn.Dense(3, **F64)(x)


X = np.random.default_rng(0).normal(size=(6, 5))


@pytest.mark.parametrize(
    ("small", "big"), [((8,), (16,)), ((8,), (13,)), ((8,), (16, 24)), ((8, 8), (8, 8, 8, 8))]
)
def test_mlp(small, big):
    tx = trainkit.transforms.average_params(optax.adamw(1e-2), 0.9)
    state = linen_state(MLP(small), X, tx)
    grown = grow(state, MLP(small), MLP(big), X, tx=tx)
    check(MLP(small), MLP(big), state, grown, X, tx)
    # The average of the parameters computes what it computed, too.
    averaged = state.replace(params=state.opt_state.average)
    grown_average = grown.replace(params=grown.opt_state.average)
    a, b = outputs(MLP(small), averaged, X), outputs(MLP(big), grown_average, X)
    np.testing.assert_allclose(a, b, atol=1e-12)


class ResNet(nn.Module):
    width: int
    blocks: int

    @nn.compact
    def __call__(self, x, train):
        norm = lambda: nn.BatchNorm(use_running_average=not train, dtype=jnp.float64, **F64)
        conv = lambda: nn.Conv(self.width, (3, 3), use_bias=False, **F64)
        x = nn.relu(norm()(conv()(x)))
        for i in range(self.blocks):
            x = Residual(self.width, name=f"block_{i}")(x, train)
        return nn.Dense(3, **F64)(x.mean((1, 2)))


class Residual(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        norm = lambda: nn.BatchNorm(use_running_average=not train, dtype=jnp.float64, **F64)
        conv = lambda: nn.Conv(self.width, (3, 3), use_bias=False, **F64)
        y = norm()(conv()(nn.relu(norm()(conv()(x)))))
        return nn.relu(x + y)


def test_batch_statistics_follow():
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 2))
    tx = optax.sgd(0.1, 0.9)
    small, big = ResNet(4, 1), ResNet(8, 3)
    state = linen_state(small, x, tx, train=False)
    grown = grow(state, small, big, x, tx=tx)
    check(small, big, state, grown, x, tx, train=False)
    mean = grown.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    old = state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    assert set(np.asarray(mean)) == set(np.asarray(old))
    # Momenta of the new blocks are 0, those of the old one are not.
    trace = grown.opt_state[0].trace
    zero = [not np.any(trace[f"block_{i}"]["Conv_0"]["kernel"]) for i in range(3)]
    assert sorted(zero) == [False, True, True]


class Transformer(nn.Module):
    width: int
    depth: int
    heads: int
    stacked: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, self.width, **F64)
        x = embed(tokens)
        if self.stacked:
            stack = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth
            )
            x, _ = stack(self.width, self.heads)(x, None)
        else:
            for i in range(self.depth):
                x, _ = Block(self.width, self.heads, name=f"layer_{i}")(x, None)
        return embed.attend(nn.LayerNorm(dtype=jnp.float64, **F64)(x))


class Block(nn.Module):
    width: int
    heads: int

    @nn.compact
    def __call__(self, x, _):
        h = nn.LayerNorm(dtype=jnp.float64, **F64)(x)
        q, k, v = (nn.DenseGeneral((self.heads, 4), name=n, **F64)(h) for n in "qkv")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), v)
        x = x + nn.DenseGeneral(self.width, axis=(-2, -1), name="o", **F64)(mixed)
        h = nn.LayerNorm(dtype=jnp.float64, **F64)(x)
        return x + nn.Dense(self.width, **F64)(nn.gelu(nn.Dense(3 * self.width, **F64)(h))), None


TOKENS = np.random.default_rng(2).integers(0, 7, (3, 5))


@pytest.mark.parametrize("stacked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_transformer_in_width_and_depth(stacked):
    tx = optax.adamw(1e-2)
    small, big = (Transformer(w, d, h, stacked) for w, d, h in ((8, 2, 2), (16, 4, 4)))
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
    small, big = Transformer(8, 2, 2), Transformer(16, 4, 4)
    state = linen_state(small, TOKENS, tx)
    grown = grow(state, small, big, TOKENS, tx=tx, how=how)
    fresh = jax.eval_shape(tx.init, grown.params)
    assert jax.tree.map(jnp.shape, grown.opt_state) == jax.tree.map(lambda s: s.shape, fresh)
    a, b = outputs(small, state, TOKENS), outputs(big, grown, TOKENS)
    assert np.abs(a - b).max() > 1e-3
    assert np.isfinite(b).all()


class Net(nnx.Module):
    def __init__(self, width, *, rngs):
        kwargs = {"rngs": rngs, "param_dtype": jnp.float64}
        self.first = nnx.Linear(5, width, **kwargs)
        self.norm = nnx.BatchNorm(width, **kwargs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width, 3, **kwargs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def test_nnx_module_and_factory():
    small = Net(6, rngs=nnx.Rngs(0))
    _, params, _, rest = nnx.split(small, nnx.Param, nnx.RngState, ...)
    params, rest = (randomised(nnx.to_pure_dict(part)) for part in (params, rest))
    tx = optax.adam(1e-2)
    state = stepped(params, rest, tx)
    for big in (Net(9, rngs=nnx.Rngs(1)), lambda rngs: Net(9, rngs=rngs)):
        grown = grow(state, small, big, X, tx=tx)

        def run(width, state):
            made = Net(width, rngs=nnx.Rngs(0))
            graph, _, streams, _ = nnx.split(made, nnx.Param, nnx.RngState, ...)
            module = nnx.merge(graph, state.params, streams, state.model_state)
            module.eval()
            return module(X)

        np.testing.assert_allclose(run(6, state), run(9, grown), atol=1e-12)
        assert grown.opt_state[0].mu["first"]["kernel"].shape == (5, 9)


def plain(params, x):
    for layer in params["layers"]:
        x = x + jax.nn.gelu(x @ layer["up"]) @ layer["down"]
    return x @ params["out"]


def plain_params(width, depth):
    draw = np.random.default_rng(3).normal
    return {
        "layers": [
            {"up": jnp.asarray(draw(size=(5, width))), "down": jnp.asarray(draw(size=(width, 5)))}
            for _ in range(depth)
        ],
        "out": jnp.asarray(draw(size=(5, 2))),
    }


def test_plain_functions_in_width_and_depth():
    tx = optax.lion(1e-2)
    state = stepped(plain_params(4, 2), {}, tx)
    grown = grow(state, plain, plain, X, tx=tx, big_params=plain_params(6, 3))
    np.testing.assert_allclose(plain(state.params, X), plain(grown.params, X), rtol=1e-12)
    assert len(grown.opt_state[0].mu["layers"]) == 3
    with pytest.raises(GrowthError, match="pass big_params="):
        grow(state, plain, plain, X, tx=tx)


def test_adapted_models():
    """What `trainkit.from_linen` made, and a whole batch as the example."""
    tx = optax.adam(1e-2)
    batch = {"x": X, "label": np.zeros(6, np.int32)}
    wrap = lambda m: trainkit.from_linen(m, optax.softmax_cross_entropy_with_integer_labels)
    state = linen_state(MLP((8,)), X, tx)
    grown = grow(state, wrap(MLP((8,))), wrap(MLP((12,))), batch, tx=tx)
    check(MLP((8,)), MLP((12,)), state, grown, X, tx)


def test_same_key_same_growth():
    tx = optax.adam(1e-2)
    state = linen_state(MLP((8,)), X, tx)
    a, b, c = (grow(state, MLP((8,)), MLP((16,)), X, tx=tx, key=k) for k in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert np.any(a.params["Dense_1"]["kernel"] != c.params["Dense_1"]["kernel"])


def test_bad_input():
    tx = optax.adam(1e-2)
    state = linen_state(MLP((8,)), X, tx)
    with pytest.raises(GrowthError, match="the state is not the small model's"):
        grow(state, MLP((9,)), MLP((16,)), X, tx=tx)
    with pytest.raises(GrowthError):
        grow(state, MLP((8,)), MLP((4,)), X, tx=tx)
    two = linen_state(MLP((8, 8)), X, tx)
    with pytest.raises(GrowthError, match="growth only adds layers"):
        grow(two, MLP((8, 8)), MLP((8,)), X, tx=tx)
    with pytest.raises(GrowthError, match="must be a Linen module"):
        grow(state, MLP((8,)), 3, X, tx=tx)
    with pytest.raises(ValueError, match="there is no operator 'twice'"):
        grow(state, MLP((8,)), MLP((16,)), X, tx=tx, how="twice")
