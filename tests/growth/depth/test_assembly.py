"""One plan for width and depth: layers of any name, identities that are proved, copies."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import growth
from trainkit.growth.depth.layer_cut import cut_layers
from trainkit.growth.ir.program import Folder


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


X = np.random.default_rng(7).normal(size=(6, 3))


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 0.5)


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def plain(params, x, names, act=jax.nn.relu):
    *hidden, last = names
    for name in hidden:
        x = act(x @ params[name]["w"] + params[name]["b"])
    return x @ params[last]["w"] + params[last]["b"]


def dense(names, sizes):
    layer = lambda i, n, m: {"w": draw(i, n, m), "b": draw(i + 50, m)}
    pairs = enumerate(itertools.pairwise(sizes))
    return {name: layer(i, *pair) for name, (i, pair) in zip(names, pairs, strict=True)}


NAMES = {
    "numbers": (["Dense_0", "Dense_1", "Dense_2"], ["Dense_0", "Dense_1", "Dense_2", "Dense_3"]),
    "words": (["first", "middle", "last"], ["first", "middle", "more", "last"]),
    "dots": (["h.0.fc", "h.1.fc", "out"], ["h.0.fc", "h.1.fc", "h.2.fc", "out"]),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("width", [8, 16])
def test_plain_layers_of_any_name(names, width):
    small_fn, big_fn = (functools.partial(plain, names=n) for n in names)
    small = dense(names[0], [3, 8, 8, 2])
    big = dense(names[1], [3, width, width, width, 2])
    plan = growth.plan(small_fn, big_fn, small, shapes(big), X)
    assert (plan.depth, bool(plan.grown_axes)) == ("identity", width == 16)
    grown = plan.grow(small, key=jax.random.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    np.testing.assert_allclose(big_fn(grown, X), small_fn(small, X), rtol=0, atol=1e-13)


def test_a_new_layer_of_another_width():
    """Identities are widened as all else is: 4 → 4 becomes 8 → 12."""
    names = ["in", "out"], ["in", "more", "out"]
    small_fn, big_fn = (functools.partial(plain, names=n) for n in names)
    small, big = dense(names[0], [3, 4, 2]), dense(names[1], [3, 8, 12, 2])
    for how in ("uneven", "zero_out"):
        plan = growth.plan(small_fn, big_fn, small, big, X)
        grown = plan.grow(small, key=jax.random.key(0), how=how)
        np.testing.assert_allclose(big_fn(grown, X), small_fn(small, X), rtol=0, atol=1e-13)
    assert plan.mup().leaves["more/w"].kind == "hidden"


def test_a_plan_with_layers_is_data():
    names = NAMES["numbers"]
    fns = [functools.partial(plain, names=n) for n in names]
    small, big = dense(names[0], [3, 8, 8, 2]), dense(names[1], [3, 16, 16, 16, 2])
    plan = growth.plan(*fns, small, big, X)
    again = growth.Plan.from_json(plan.to_json())
    assert (again, hash(again)) == (plan, hash(plan))
    for word in ("new: eye", "new: zero", "new layers by 'identity'"):
        assert word in plan.table()
    key = jax.random.key(3)
    jax.tree.map(
        np.testing.assert_array_equal, again.grow(small, key=key), plan.grow(small, key=key)
    )
    # Back again: new layers go, copies become one.
    back = plan.shrink(plan.grow(small, key=key), how="merge")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), back, small)
    assert jax.tree.map(jnp.shape, plan.shrink(big)) == jax.tree.map(jnp.shape, small)
    fresh = plan.mup().init(small, key)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, big)


def test_training_goes_on_through_width_and_depth():
    """Moments follow, new layers rest under exact continuation, and the certificate says so."""
    names = NAMES["numbers"]
    small_fn, big_fn = (functools.partial(plain, names=n) for n in names)
    small, big = dense(names[0], [3, 8, 8, 2]), dense(names[1], [3, 16, 16, 16, 2])
    tx, key = optax.adamw(1e-2), jax.random.key(0)
    loss = lambda fn: lambda p: jnp.mean(jnp.square(fn(p, X) - 1.0))

    def train(tx, fn, params, state, steps):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss(fn))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.jit(lambda c: jax.lax.scan(step, c, None, steps))((params, state))

    (params, state), _ = train(tx, small_fn, small, tx.init(small), 3)
    plan = growth.plan(small_fn, big_fn, params, shapes(big), X)
    grown = plan.grow(params, key=key)
    moments = plan.realise(key).opt_state(tx, state, params, grown)
    assert jax.tree.map(jnp.shape, moments) == jax.tree.map(jnp.shape, tx.init(grown))
    new = [leaf.path for leaf in plan.leaves if leaf.new]
    assert {path.split("/")[0] for path in new} == {"Dense_2"}
    assert not np.any(moments[0].mu["Dense_2"]["w"])
    assert np.all(np.asarray(moments[0].nu["Dense_2"]["w"]) > 0)
    jax.tree.map(np.testing.assert_array_equal, plan.realise(key).opt_state(tx, state), moments)
    jax.tree.map(  # under the user's own jit
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        jax.jit(lambda s: plan.realise(key).opt_state(tx, s))(state),
        moments,
    )
    _, before = train(tx, small_fn, params, state, 5)
    _, after = train(plan.realise(key).exact(tx), big_fn, grown, moments, 5)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)
    certificate = plan.realise(key).certificate(small_fn, big_fn, params, X, tx=tx, opt_state=state)
    assert certificate.forward_error["float64"] < 1e-12
    assert set(certificate.new_layers) == set(new)
    assert certificate.zeroed == ("Dense_2/b",)


class Block(nn.Module):
    width: int
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        norm = lambda: nn.LayerNorm(dtype=jnp.float64, param_dtype=jnp.float64)
        linear = functools.partial(nn.DenseGeneral, param_dtype=jnp.float64)
        h = x if self.gated else norm()(x)
        q, k, v = (linear((2, self.width // 2), name=name)(h) for name in "qkv")
        scores = jnp.einsum("qhd,khd->hqk", q, k)
        y = linear(self.width, axis=(-2, -1))(jnp.einsum("hqk,khd->qhd", nn.softmax(scores), v))
        if not self.gated:
            return x + y
        gate = self.param("gate", nn.initializers.ones, (), jnp.float64)
        return x + gate * (norm()(x + y) - x)


class Net(nn.Module):
    """A module checks the shapes of its parameters: it cannot be run at any other size."""

    width: int
    depth: int
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, param_dtype=jnp.float64)(x)
        for i in range(self.depth):
            x = Block(self.width, self.gated, name=f"block_{i}")(x)
        return nn.Dense(2, param_dtype=jnp.float64)(x)


def made(module):
    params = jax.jit(module.init)(jax.random.key(0), X)["params"]
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + 0.2 * noise.normal(size=p.shape), params)


def apply(module):
    return lambda params, x: module.apply({"params": params}, x)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("depths", [(1, 3), (0, 1)])
def test_modules_in_width_and_depth(gated, depths):
    small, big = Net(4, depths[0], gated), Net(8, depths[1], gated)
    params, like = made(small), shapes(made(big))
    plan = growth.plan(apply(small), apply(big), params, like, X)
    grown = plan.grow(params, key=jax.random.key(0))
    before, after = jax.jit(apply(small))(params, X), jax.jit(apply(big))(grown, X)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12 * float(jnp.abs(before).max()))
    # Not dead: what a new layer is made of has a gradient, or will have after one step.
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grown[f"block_{depths[1] - 1}"]))


@pytest.mark.parametrize("how", ["stack", "interpose", "last"])
def test_copies_in_width_and_depth(how):
    """Post-norm blocks, no identity: the widths are proved on the program without the copies."""

    def net(params, x):
        for p in params["blocks"]:
            y = x + jax.nn.gelu(x @ p["up"]) @ p["down"]
            y = y - y.mean(-1, keepdims=True)
            x = y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6) * p["scale"]
        return x @ params["out"]

    def params(width, hidden, depth):
        block = lambda s: {
            "up": draw(s, width, hidden), "down": draw(s + 1, hidden, width),
            "scale": 1 + draw(s + 2, width),
        }  # fmt: skip
        return {"blocks": [block(10 * i) for i in range(depth)], "out": draw(99, width, 2)}

    small, deep, big = params(3, 5, 2), params(3, 5, 4), shapes(params(3, 10, 4))
    with pytest.raises(growth.GrowthError, match="needs a gate"):
        growth.plan(net, net, small, shapes(deep), X)
    copied = growth.plan(net, net, small, shapes(deep), X, how=how).grow(small)
    order = {"stack": [0, 1, 0, 1], "interpose": [0, 0, 1, 1], "last": [0, 1, 1, 1]}[how]
    for block, source in zip(copied["blocks"], order, strict=True):
        np.testing.assert_array_equal(block["up"], small["blocks"][source]["up"])
    plan = growth.plan(net, net, small, big, X, how=how)
    grown = plan.grow(small, key=jax.random.key(0))
    # Wider than the copied model, and the same function.
    run = jax.jit(net)
    np.testing.assert_allclose(run(grown, X), run(copied, X), rtol=0, atol=1e-12)


def test_stacked_layers_in_width_and_depth():
    def net(params, x):
        def block(x, p):
            return x + jnp.tanh(x @ p["up"]) @ p["down"] + p["bias"], None

        return jax.lax.scan(block, x, params["layers"])[0]

    def params(hidden, depth):
        layers = {"up": draw(0, depth, 3, hidden), "down": draw(1, depth, hidden, 3)}
        return {"layers": layers | {"bias": draw(2, depth, 3)}}

    small, big = params(4, 2), params(10, 5)
    plan = growth.plan(net, net, small, big, X)
    assert growth.Plan.from_json(plan.to_json()) == plan
    grown = plan.grow(small, key=jax.random.key(0))
    run = jax.jit(net)
    np.testing.assert_allclose(run(grown, X), run(small, X), rtol=0, atol=1e-13)
    assert plan.zeroed == ("layers/bias", "layers/down")
    tx = optax.adam(1e-2)
    state = plan.realise(jax.random.key(0)).opt_state(tx, tx.init(small), small, grown)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(grown))
    back = plan.shrink(grown, how="merge")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), back, small)


def test_a_stretch_is_cut_out_only_where_the_rest_is_the_small_program():
    def net(*args):
        *layers, x = args
        for w in layers:
            x = jnp.sin(x @ w)
        return x

    w = draw(0, 3, 3)
    one, two = (Folder().flatten(jax.make_jaxpr(net)(*[w] * n, X)) for n in (1, 2))
    for new in (0, 1):
        assert cut_layers(one, two, {0: 1 - new, 1: 2}, {new}, 1) is not None
    other = Folder().flatten(jax.make_jaxpr(lambda a, b, x: jnp.cos(x @ a) @ b)(w, w, X))
    assert cut_layers(one, other, {0: 0, 1: 2}, {1}, 1) is None
