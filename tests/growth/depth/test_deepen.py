"""DepthCandidate models: which layers are which, and that identity insertion keeps the function."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.opt_state.test_continuation import TOKENS, loss, train, transformer, weights
from trainkit import growth
from trainkit.growth.depth.alignment import align, order
from trainkit.growth.errors import Conflict, GrowthError
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.zero_analysis import nearest_zeros
from trainkit.growth.views.outputs import relative_change


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 0.5)


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


class Deepened(NamedTuple):
    params: Any
    way: growth.GrowthMap
    jump: float


def deepen(small_fn, deep_fn, params, deep, *inputs, **options):
    """The deeper model's parameters, the map, and by how much outputs change."""
    way = growth.plan(small_fn, deep_fn, params, deep, *inputs, **options).realise(how="even")
    grown = way.params(params, like=deep)
    before, after = jax.jit(small_fn)(params, *inputs), jax.jit(deep_fn)(grown, *inputs)
    return Deepened(grown, way, relative_change(before, after))


def deeper_transformer(layers):
    params = weights(8, 4, 12)
    deep = dict(params, layers=[params["layers"][0]] * layers)
    return params, shapes(deep)


def test_prenorm_transformer():
    params, deep = deeper_transformer(5)
    result = deepen(transformer, transformer, params, deep, TOKENS)
    assert result.jump == 0.0
    new = [i for i in range(5) if result.way.origin[f"layers/{i}/q"].new]
    assert len(new) == 3
    # The two projections into the residual stream, of the new blocks alone.
    assert set(result.way.zeroed) == {f"layers/{i}/{n}" for i in new for n in ("o", "down")}
    assert all(np.any(result.params["layers"][i]["q"]) for i in new)
    # Not dead: after one step the gradient reaches every leaf of the new blocks.
    slope = jax.jit(jax.grad(loss))
    grads = slope(result.params, 0)
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, result.params, grads)
    again = slope(stepped, 1)
    assert all(np.any(g) for i in new for g in again["layers"][i].values())


@pytest.mark.parametrize(
    ("how", "layers"),
    [
        ("stack", [0, 1, 0, 1]),
        ("interpose", [0, 0, 1, 1]),
        ("last", [0, 1, 1, 1]),
        ("middle", [0, 1, 0, 1]),
    ],
)
def test_copies(how, layers):
    params, deep = deeper_transformer(4)
    result = deepen(transformer, transformer, params, deep, TOKENS, how=how)
    for i, source in enumerate(layers):
        for name, leaf in result.params["layers"][i].items():
            np.testing.assert_array_equal(leaf, params["layers"][source][name])
    assert result.jump > 1e-3
    olds = [i for i in range(4) if not result.way.origin[f"layers/{i}/q"].new]
    assert [layers[i] for i in olds] == [0, 1]


def test_order_of_every_size():
    for n in range(1, 6):
        for m in range(n, 13):
            for how in ("identity", "stack", "interpose", "middle", "last"):
                rows = order(n, m, how)
                assert len(rows) == m
                # Every old layer stays, once, and in its order.
                assert [s for s, new in rows if not new] == list(range(n))


def mlp(act):
    def fn(params, x):
        names = sorted(params)
        for name in names[:-1]:
            x = act(x @ params[name]["kernel"] + params[name]["bias"])
        return x @ params[names[-1]]["kernel"] + params[names[-1]]["bias"]

    return fn


def dense(seed, n, m):
    return {"kernel": draw(seed, n, m), "bias": draw(seed + 100, m)}


X = np.random.default_rng(7).normal(size=(6, 3))


@pytest.mark.parametrize("hidden", [0, 1])
def test_plain_relu_mlp(hidden):
    """Also where the shallow model has no layer of the new one's shape."""
    fn = mlp(jax.nn.relu)
    sizes = [3, *([8] * (1 + hidden)), 2]
    params = {f"Dense_{i}": dense(i, n, m) for i, (n, m) in enumerate(itertools.pairwise(sizes))}
    sizes = [3, *([8] * 4), 2]
    deep = {f"Dense_{i}": dense(i, n, m) for i, (n, m) in enumerate(itertools.pairwise(sizes))}
    result = deepen(fn, fn, params, shapes(deep), X)
    assert result.jump == 0.0
    np.testing.assert_array_equal(
        result.params["Dense_4"]["kernel"], params[f"Dense_{hidden + 1}"]["kernel"]
    )
    with pytest.raises(GrowthError, match=r"ReLU"):
        deepen(mlp(jnp.tanh), mlp(jnp.tanh), params, shapes(deep), X)


def test_no_layer_to_copy():
    fn = mlp(jax.nn.relu)
    params = {"Dense_0": dense(0, 3, 8), "Dense_1": dense(1, 8, 2)}
    deep = {"Dense_0": dense(0, 3, 8), "Dense_1": dense(2, 8, 8), "Dense_2": dense(1, 8, 2)}
    with pytest.raises(GrowthError, match="no old layer has the shapes"):
        deepen(fn, fn, params, shapes(deep), X, how="stack")


def conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolutions(params, x):
    for layer in params["convs"]:
        x = jax.nn.relu(conv(x, layer["kernel"]) + layer["bias"])
    return jnp.mean(x, (1, 2)) @ params["out"]


def convolution_weights(depth):
    layer = lambda s, i: {"kernel": draw(s, 3, 3, i, 4), "bias": draw(s + 50, 4)}
    layers = (layer(0, 2), *(layer(s, 4) for s in range(1, depth)))
    return {"convs": layers, "out": draw(3, 4, 2)}


def test_plain_convolutions():
    params, deep = convolution_weights(2), shapes(convolution_weights(3))
    result = deepen(convolutions, convolutions, params, deep, draw(5, 2, 6, 6, 2))
    assert result.jump < 1e-14  # sums of zeros in another order


def batch_norm(p, x):
    x = (x - p["mean"]) / jnp.sqrt(p["var"] + 1e-5)
    return x * p["scale"] + p["bias"]


def residual(params, x):
    for p in params["blocks"]:
        y = jax.nn.relu(batch_norm(p["norm1"], conv(x, p["conv1"])))
        x = jax.nn.relu(x + batch_norm(p["norm2"], conv(y, p["conv2"])))
    return jnp.mean(x, (1, 2))


def residual_block(s):
    norm = lambda t: {
        "mean": draw(t, 4),
        "var": 1 + draw(t + 1, 4) ** 2,
        "scale": draw(t + 2, 4),
        "bias": draw(t + 3, 4),
    }
    return {
        "conv1": draw(s, 3, 3, 4, 4),
        "conv2": draw(s + 1, 3, 3, 4, 4),
        "norm1": norm(s + 2),
        "norm2": norm(s + 8),
    }


def no_statistics(name):
    return not name.endswith(("mean", "var"))


def test_residual_block_with_batch_norm():
    """The running statistics are copied, not set to 0; scale and bias of the last norm are 0."""
    params = {"blocks": [residual_block(0), residual_block(20)]}
    deep = shapes({"blocks": [residual_block(0)] * 3})
    x = draw(9, 2, 5, 5, 4)
    result = deepen(residual, residual, params, deep, x, trainable=no_statistics)
    (new,) = [i for i in range(3) if result.way.origin[f"blocks/{i}/conv1"].new]
    assert set(result.way.zeroed) == {f"blocks/{new}/norm2/scale", f"blocks/{new}/norm2/bias"}
    assert np.any(result.params["blocks"][new]["norm2"]["mean"])


def layer_norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def postnorm(gated):
    def fn(params, x):
        for _, p in sorted(params.items()):
            y = layer_norm(x + jax.nn.gelu(x @ p["up"]) @ p["down"], p)
            x = x + p["gate"] * (y - x) if gated else y
        return x

    return fn


def postnorm_block(seed, gated):
    block = {
        "up": draw(seed, 3, 5),
        "down": draw(seed + 1, 5, 3),
        "scale": 1 + draw(seed + 2, 3),
        "bias": draw(seed + 3, 3),
    }
    return block | ({"gate": draw(seed + 4)} if gated else {})


def test_postnorm_needs_a_gate():
    for gated in (False, True):
        params = {"block0": postnorm_block(0, gated)}
        deep = shapes({"block0": params["block0"], "block1": params["block0"]})
        fn = postnorm(gated)
        if gated:
            result = deepen(fn, fn, params, deep, X)
            assert result.way.zeroed == ("block1/gate",)
            assert result.jump == 0.0
        else:
            with pytest.raises(GrowthError, match="needs a gate"):
                deepen(fn, fn, params, deep, X)


def scanned(params, x):
    def block(x, p):
        h = layer_norm(x, p)
        return x + jax.nn.gelu(h @ p["up"] + p["b1"]) @ p["down"] + p["b2"], None

    x, _ = jax.lax.scan(jax.checkpoint(block), x, params["layers"])
    return x @ params["out"]


def stacked(layers, seed=0):
    return {
        "layers": {
            "up": draw(seed, layers, 3, 5),
            "b1": draw(seed + 1, layers, 5),
            "down": draw(seed + 2, layers, 5, 3),
            "b2": draw(seed + 3, layers, 3),
            "scale": 1 + draw(seed + 4, layers, 3),
            "bias": draw(seed + 5, layers, 3),
        },
        "out": draw(seed + 6, 3, 2),
    }


@pytest.mark.parametrize("how", ["identity", "stack", "interpose"])
def test_layers_under_a_scan(how):
    params, tx = stacked(2), optax.adam(1e-2)
    result = deepen(scanned, scanned, params, shapes(stacked(4)), X, how=how)
    rows = {"identity": [0, 0, 1, 1], "interpose": [0, 0, 1, 1], "stack": [0, 1, 0, 1]}[how]
    new = {"identity": [1, 3], "interpose": [1, 3], "stack": [2, 3]}[how]
    up = params["layers"]["up"]
    np.testing.assert_array_equal(result.params["layers"]["up"], up[np.array(rows)])
    if how == "identity":
        assert result.jump == 0.0
        assert set(result.way.zeroed) == {"layers/down", "layers/b2"}
        assert not np.any(result.params["layers"]["down"][np.array(new)])
    _, state = tx.update(params, tx.init(params), params)
    grown = result.way.opt_state(tx, state, params, result.params)[0]
    old = [i for i in range(4) if i not in new]
    np.testing.assert_array_equal(
        grown.mu["layers"]["up"][np.array(old)], state[0].mu["layers"]["up"]
    )
    np.testing.assert_array_equal(grown.mu["layers"]["up"][np.array(new)], 0)
    mean = state[0].nu["layers"]["up"].mean(0)
    for i in new:
        np.testing.assert_allclose(grown.nu["layers"]["up"][i], mean)


@pytest.mark.slow
def test_new_layers_rest_in_exact_continuation():
    params, deep = deeper_transformer(3)
    tx = optax.adamw(1e-2)
    result = deepen(transformer, transformer, params, deep, TOKENS)
    state = result.way.opt_state(tx, tx.init(params), params, result.params)
    follow = result.way.exact(tx)
    small = train(tx, params, tx.init(params), 10)
    big = train(follow, result.params, state, 10)
    np.testing.assert_allclose(small[2], big[2], rtol=0, atol=1e-12)


def test_masks_are_no_residual_stream():
    """Scores plus a mask is an addition too, but zeroing the query is not what is wanted."""

    def fn(p, x):
        scores = (x @ p["q"]) @ (x @ p["k"]).T + jnp.where(jnp.eye(6) > 0, 0.0, -1.0)
        return x + jax.nn.softmax(scores) @ (x @ p["v"]) @ p["o"]

    p = {n: draw(i, 3, 3) for i, n in enumerate("qkvo")}
    program = Folder().flatten(jax.make_jaxpr(fn)(p, X))
    assert [sorted(p)[i] for i in nearest_zeros(program, range(4))] == ["o"]


def test_bad_trees():
    a = {"block0/w": (2, 2), "out/w": (2, 1)}
    for small, big, how, why in [
        (a, {"block0/w": (2, 2), "block1/w": (2, 2)}, "identity", "no 'out/w'"),
        (a, {**a, "extra/w": (2, 2, 2)}, "stack", "'extra/w' is new"),
        ({**a, "block1/w": (2, 2)}, a, "identity", "only adds layers"),
        (
            a,
            {"block0/w": (4, 4), "block1/w": (4, 4), "out/w": (2, 1)},
            "identity",
            "no counterpart in the deeper one",
        ),
    ]:
        conflict = align(small, big, how)
        assert isinstance(conflict, Conflict)
        assert (conflict.kind, why in conflict.why) == ("layers", True)
    with pytest.raises(ValueError, match="choose one of identity, stack"):
        align(a, {**a, "block1/w": (2, 2)}, "twice")
    assert relative_change(jnp.ones(3), jnp.ones(3)) == 0.0
