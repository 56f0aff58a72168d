"""Layers in stacked arrays that are picked by number in Python, as in `for i in range(depth)`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.checking import exact
from trainkit import growth
from trainkit.growth.depth import flat_model
from trainkit.growth.ir.simplification.numbered_rows import numbered_rows

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(3, 5))


def norm(h, scale):
    h = h - h.mean(-1, keepdims=True)
    return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5) * scale


def picked(p, h):
    for i in range(len(p["up"])):
        h = h + jnp.tanh(norm(h, p["scale"][i]) @ p["up"][i]) @ p["down"][i]
    return norm(h, p["scale"][-1])


def mapped(p, h):
    layers = {name: p[name] for name in ("up", "down")}
    for i in range(len(p["up"])):
        w = jax.tree.map(lambda a, i=i: a[i], layers)
        h = h + jnp.tanh(norm(h, p["scale"][i]) @ w["up"]) @ w["down"]
    return norm(h, p["scale"][-1])


def zipped(p, h):
    *scales, last = p["scale"]
    for scale, up, down in zip(scales, p["up"], p["down"], strict=True):
        h = h + jnp.tanh(norm(h, scale) @ up) @ down
    return norm(h, last)


def cast(p, h):
    """At another precision than the parameters, and layers in parts of them."""
    p, h = jax.tree.map(lambda a: a.astype(jnp.float32), (p, h))
    for i in range(len(p["up"])):
        hidden = jnp.tanh(norm(h, p["scale"][i]) @ p["up"][i])
        h = h + hidden[:, ::2] @ p["down"][i, ::2] + hidden[:, 1::2] @ p["down"][i, 1::2]
    return norm(h, p["scale"][-1])


def backwards(p, h):
    for i in range(-len(p["up"]), 0):
        h = h + jnp.tanh(norm(h, p["scale"][i]) @ p["up"][i]) @ p["down"][i]
    return norm(h, p["scale"][0])


def plain(p, h):
    for i in range(len(p["square"])):
        h = jax.nn.relu(h @ p["square"][i] + p["bias"][i])
    return h


def model(layers):
    return lambda p, x: layers(p, jax.nn.relu(x @ p["enter"])).astype(float) @ p["out"]


def draw(layers, depth, width=4, hidden=6):
    rng = np.random.default_rng(depth)
    shapes = {"enter": (5, width), "out": (width, 2)}
    if layers is plain:
        shapes |= {"square": (depth, width, width), "bias": (depth, width)}
    else:
        shapes |= {"scale": (depth + 1, width)}
        shapes |= {"up": (depth, width, hidden), "down": (depth, hidden, width)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


WAYS = [picked, mapped, zipped, backwards, plain]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 3), (2, 4)])
@pytest.mark.parametrize("layers", WAYS)
def test_layers_are_added(layers, before, after):
    plan, grown = exact(model(layers), draw(layers, before), draw(layers, after), X)
    stack = "square" if layers is plain else "up"
    (rows,) = [leaf.layer.rows for leaf in plan.leaves if leaf.path == stack]
    assert [old for old, new in rows if not new] == list(range(before))
    assert grown[stack].shape[0] == after


@pytest.mark.parametrize(("width", "hidden"), [(4, 9), (8, 6), (8, 9)])
@pytest.mark.parametrize("layers", WAYS)
def test_layers_and_width_at_once(layers, width, hidden):
    exact(model(layers), draw(layers, 2), draw(layers, 3, width, hidden), X)


def test_conversions_and_parts_of_rows():
    # Single precision: sums of eight products.
    exact(model(cast), draw(cast, 2), draw(cast, 4, 8), X, tolerance=2e-5)


def test_rows_along_another_axis():
    def fn(p, x):
        h = x @ p["enter"]
        for i in range(p["up"].shape[1]):
            h = h + jnp.tanh(h @ p["up"][:, i]) @ p["down"][..., i]
        return h @ p["out"]

    turn = lambda p: p | {"up": p["up"].swapaxes(0, 1), "down": np.moveaxis(p["down"], 0, -1)}
    exact(fn, turn(draw(picked, 2)), turn(draw(picked, 3, 8)), X)


def weighted(p, x):
    """One number per layer for the residual stream and one for the first value, in two vectors."""
    first = h = x @ p["enter"]
    for i, w in enumerate(p["layers"]):
        h = p["stream"][i] * h + p["first"][i] * first
        h = h + jnp.tanh(norm(h, w["scale"]) @ w["up"]) @ w["down"]
    return h @ p["out"]


def with_weights(depth):
    p = draw(picked, depth)
    layers = [{name: p[name][i] for name in ("scale", "up", "down")} for i in range(depth)]
    rng = np.random.default_rng(1)
    vectors = {name: rng.normal(size=depth) for name in ("stream", "first")}
    return {"enter": p["enter"], "out": p["out"], "layers": layers} | vectors


def test_numbers_of_new_layers():
    """Beside layers in a list: 1 for what multiplies the stream, 0 for what is added to it."""
    plan, grown = exact(weighted, with_weights(2), with_weights(4), X)
    new = [i for i, layer in enumerate(plan.leaves) if layer.path == "stream"]
    rows = plan.leaves[new[0]].layer.rows
    added = [i for i, (_, is_new) in enumerate(rows) if is_new]
    assert len(added) == 2
    np.testing.assert_array_equal(grown["stream"][np.array(added)], 1)
    np.testing.assert_array_equal(grown["first"][np.array(added)], 0)


def test_a_row_for_every_other_layer():
    def fn(p, x):
        h = x @ p["enter"]
        for i in range(len(p["layers"])):
            h = h + jnp.tanh(h @ p["layers"][i]["up"]) @ p["layers"][i]["down"]
            if i % 2:
                h = h + p["gate"][i // 2] * jnp.sin(h)
        return h @ p["out"]

    def of(depth):
        p = draw(picked, depth)
        layers = [{name: p[name][i] for name in ("up", "down")} for i in range(depth)]
        gate = np.random.default_rng(2).normal(size=(depth // 2, 4))
        return {"enter": p["enter"], "out": p["out"], "layers": layers, "gate": gate}

    exact(fn, of(2), of(4), X)


def test_members_of_a_sum():
    fn = lambda p, x: sum(jnp.tanh(x @ p["in"][i]) @ p["v"][i] for i in range(len(p["in"])))
    rng = np.random.default_rng(3)
    of = lambda n: {"in": rng.normal(size=(n, 5, 3)), "v": rng.normal(size=(n, 3, 2))}
    exact(fn, of(2), of(3), X)


@pytest.mark.parametrize("how", ["stack", "interpose", "middle", "last"])
@pytest.mark.parametrize("layers", [picked, cast])
def test_copies(layers, how):
    """Copies of layers, with width: new rows are old ones, and old ones are kept."""
    fn, small, big = model(layers), draw(layers, 2), draw(layers, 4, 8)
    plan = growth.plan(fn, fn, small, big, X, how=how)
    rows = {leaf.path: leaf.layer.rows for leaf in plan.leaves if leaf.layer.rows}
    assert rows.keys() == {"up", "down", "scale"}
    assert rows["up"] == rows["down"]
    assert [row for row, new in rows["up"] if not new] == [0, 1]
    grown = plan.grow(small, key=jax.random.key(0))
    for i, (row, _) in enumerate(rows["up"]):
        first = [old for old, _ in rows["up"]].index(row)
        np.testing.assert_allclose(grown["up"][i], grown["up"][first])


def test_moments_of_old_rows_are_carried():
    fn, tx = model(picked), optax.adamw(1e-2)
    small, big = draw(picked, 2), draw(picked, 4)
    state = tx.init(small)
    for _ in range(3):
        grads = jax.grad(lambda p: (fn(p, X) ** 2).sum())(small)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(grads, state, small)
        small = optax.apply_updates(small, updates)
    plan = growth.plan(fn, fn, small, big, X)
    grown = plan.realise(key=jax.random.key(0)).opt_state(tx, state)
    (rows,) = [leaf.layer.rows for leaf in plan.leaves if leaf.path == "up"]
    for i, (row, new) in enumerate(rows):
        want = np.zeros_like(small["up"][0]) if new else state[0].mu["up"][row]
        np.testing.assert_allclose(grown[0].mu["up"][i], want)
        if not new:  # those of new rows may not be 0 at an old count
            np.testing.assert_allclose(grown[0].nu["up"][i], state[0].nu["up"][row])


def test_a_refusal_names_the_leaf_and_the_row():
    def fn(p, x):
        h = x @ p["enter"]
        for i in range(len(p["up"])):
            h = norm(h + jnp.tanh(h @ p["up"][i]) @ p["down"][i], p["scale"][i])
        return h @ p["out"]

    with pytest.raises(growth.GrowthError, match=r"layer of up\[1\] cannot be an identity") as e:
        growth.plan(fn, fn, draw(picked, 2), draw(picked, 3), X)
    assert set(e.value.params) <= {"scale", "up", "down"}
    assert e.value.lines["up"]
    assert "gate" in str(e.value)


def test_rows_that_would_have_to_differ():
    """A layer's leaf in which one row needs 1 and another one 0, so that it is an identity."""

    def fn(p, x):
        h = x @ p["enter"]
        for i in range(p["mix"].shape[0] // 2):
            h = p["mix"][2 * i] * h + p["mix"][2 * i + 1] * jnp.sin(h)
        return h @ p["out"]

    of = lambda n: (
        {name: draw(picked, 1)[name] for name in ("enter", "out")}
        | {"mix": np.random.default_rng(n).normal(size=(2 * n, 4))}
    )
    with pytest.raises(growth.GrowthError, match="different things") as e:
        growth.plan(fn, fn, of(2), of(3), X)
    assert e.value.params == ("mix",)


def test_rows_that_are_used_otherwise_too():
    """Where all of the leaf is used besides, its rows are no leaves."""

    def fn(p, x):
        h = x @ p["enter"]
        for i in range(len(p["up"])):
            h = h + jnp.tanh(h @ p["up"][i]) @ p["down"][i]
        return (h @ p["out"]) * jnp.sum(p["up"] ** 2)

    drop = lambda p: {name: p[name] for name in ("enter", "up", "down", "out")}
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, drop(draw(picked, 2)), drop(draw(picked, 3)), X)


def test_programs_are_not_read_once_for_every_leaf(monkeypatch):
    """Planning is linear in layers: rows are looked for in all leaves at once, axis by axis."""
    passes = []

    def counted(program, axes):
        passes.append(len(axes))
        return numbered_rows(program, axes)

    monkeypatch.setattr(flat_model, "numbered_rows", counted)

    def fn(p, x):
        h = x @ p["enter"]
        for w in p["layers"]:
            h = h + jnp.tanh(h @ w["up"]) @ w["down"]
        return h @ p["out"]

    def of(depth, width):
        layer = {"up": np.ones((width, width)), "down": np.ones((width, width))}
        ends = {"enter": np.ones((5, width)), "out": np.ones((width, 2))}
        return ends | {"layers": [layer] * depth}

    growth.plan(fn, fn, of(8, 4), of(8, 8), X)
    assert len(passes) <= 4 * 2  # axes, programs, and orders of new layers
    assert max(passes) >= 16


def test_rows_that_are_read_in_two_orders_are_refused(x64):
    """Values inside of rows were turned by the shape of the whole leaf: an IndexError."""

    def fn(p, x):
        h = jax.nn.relu(x @ p["into"])
        for i in range(len(p["film"])):
            h = jax.nn.relu(h * p["film"][i, 0] + p["film"][i, 1])
        for i in range(len(p["film"])):
            h = jax.nn.relu(h * p["film"][i, 1] + p["film"][i, 0])
        return h

    def sizes(depth):
        one = lambda *shape: np.random.default_rng(depth).normal(size=shape)
        return {"into": one(5, 4), "film": one(depth, 2, 4)}

    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, sizes(2), sizes(3), X)
