"""New layers of a network that is the body of a loop: a recurrent cell, or a block of a stack."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from trainkit import growth
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.simplification.opened_loops import closed, opened

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(5, 2, 3))


def branches(layers, h):
    for layer in layers:
        h = h + jnp.tanh(h @ layer["up"] + layer["b"]) @ layer["down"]
    return h


def plain(layers, h):
    for layer in layers:
        h = jax.nn.relu(h @ layer["w"] + layer["b"])
    return h


def scaled(layers, h):
    for layer in layers:
        h = h + (1.0 + layer["gate"]) * jnp.sin(h @ layer["w"])
    return h


KINDS = {
    branches: lambda n: {"up": (n, 5), "b": (5,), "down": (5, n)},
    plain: lambda n: {"w": (n, n), "b": (n,)},
    scaled: lambda n: {"w": (n, n), "gate": (n,)},
}


def over_time(layers, reverse=False):
    """A recurrent network, whose parameters are constants of the loop."""

    def fn(p, x):
        def step(carry, row):
            h = layers(p["layers"], jax.nn.relu(row @ p["in"] + carry @ p["again"]))
            return jnp.tanh(h @ p["out"]), h @ p["out"]

        last, every = lax.scan(step, jnp.zeros((2, 3)), x, reverse=reverse)
        return (jnp.sum(jnp.cos(every), 0) + last) @ p["head"]

    return fn


def over_blocks(layers):
    """Blocks of a stack, whose parameters are rows of the loop; a count is carried along."""

    def fn(p, x):
        def block(carry, q):
            h, count = carry
            y = layers(q["layers"], jax.nn.relu(h @ q["in"])) @ q["out"]
            return (h + y, count + 1.0), None

        (h, count), _ = lax.scan(block, (x, 0.0), p["blocks"])
        return (h * count) @ p["head"]

    return fn


def in_two_loops(layers):
    """Blocks of a stack in every step of time."""

    def fn(p, x):
        def block(h, q):
            return h + layers(q["layers"], jax.nn.relu(h @ q["in"])) @ q["out"], None

        def step(carry, row):
            h = lax.scan(block, carry + row, p["blocks"])[0]
            return jnp.tanh(h), h @ p["head"]

        return lax.scan(step, jnp.zeros((2, 3)), x)[1]

    return fn


def sizes(kind, depth, width, blocks=0):
    inner = {"in": (3, width), "out": (width, 3), "layers": [KINDS[kind](width)] * depth}
    if not blocks:
        return inner | {"again": (3, width), "head": (3, 2)}
    stacked = jax.tree.map(lambda s: (blocks, *s), inner, is_leaf=lambda s: isinstance(s, tuple))
    return {"blocks": stacked, "head": (3, 2)}


def draw(shapes):
    rng = np.random.default_rng(1)
    one = lambda s: jnp.asarray(rng.normal(size=s) / np.sqrt(s[-1]))
    return jax.tree.map(one, shapes, is_leaf=lambda s: isinstance(s, tuple))


LOOPS = {
    "time": (over_time, 0),
    "time, backwards": (lambda layers: over_time(layers, reverse=True), 0),
    "blocks": (over_blocks, 2),
    "two loops": (in_two_loops, 3),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("width", [4, 6])
def test_the_function_is_kept(kind, loop, width):
    make, blocks = LOOPS[loop]
    fn, small = make(kind), draw(sizes(kind, 1, 4, blocks))
    big = draw(sizes(kind, 3, width, blocks))
    plan = growth.plan(fn, fn, small, big, X)
    grown = plan.grow(small, key=jax.random.key(0), like=big)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=0, atol=1e-13)
    assert growth.Plan.from_json(plan.to_json()) == plan


def count(body):
    def fn(p, x):
        return lax.scan(lambda c, row: body(p, c, row), (x[0], 0.0), x)[0]

    return fn


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda q, c, n: (c + jnp.tanh(c @ q["w"]), n + 1.0), id="counts"),
        pytest.param(lambda q, c, n: (jnp.tanh(c @ q["w"]), n), id="no identity"),
        pytest.param(lambda q, c, n: (c + jnp.cos(c @ q["w"]), n), id="a cosine"),
        pytest.param(lambda q, c, n: (jax.nn.relu(c @ q["w"]) - 0.1, n), id="clipped anew"),
    ],
)
def test_what_a_new_layer_would_change_is_refused(layer):
    def body(p, carry, row):
        h, n = carry[0] + row, carry[1]
        for q in p["layers"]:
            h, n = layer(q, h, n)
        return (h, n), None

    fn = count(body)
    of = lambda depth: {"layers": [draw({"w": (3, 3)})] * depth}
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, of(1), of(2), X)


class Cell(nn.Module):
    """A recurrent cell with a perceptron inside."""

    hidden: int
    width: int

    @nn.compact
    def __call__(self, carry, x):
        dense = lambda n: nn.Dense(n, param_dtype=jnp.float64, bias_init=nn.initializers.normal())
        h = jnp.concatenate([carry, x], -1)
        for _ in range(self.hidden):
            h = nn.relu(dense(self.width)(h))
        carry = jnp.tanh(dense(3)(h))
        return carry, carry


class RecurrentPerceptron(nn.Module):
    hidden: int
    width: int

    @nn.compact
    def __call__(self, x):
        loop = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False})
        return loop(self.hidden, self.width)(jnp.zeros((2, 3)), x)[1]


@pytest.mark.parametrize("width", [4, 7])
def test_a_cell_of_flax(width):
    before, after = RecurrentPerceptron(1, 4), RecurrentPerceptron(2, width)
    small = before.init(jax.random.key(0), X)
    big = jax.eval_shape(after.init, jax.random.key(0), X)
    grown = growth.plan(before.apply, after.apply, small, big, X).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(after.apply(grown, X), before.apply(small, X), rtol=0, atol=1e-13)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_is_opened_and_closed_is_the_same(loop):
    make, blocks = LOOPS[loop]
    fn, params = make(branches), draw(sizes(branches, 2, 4, blocks))
    folder = Folder()
    leaves, tree = jax.tree.flatten(params)
    flat = folder.flatten(jax.make_jaxpr(lambda *v: fn(tree.unflatten(v), X))(*leaves))
    again = closed(opened(flat, folder), folder)
    assert [e.name for e in again.equations] == [e.name for e in flat.equations]
    env = dict(zip(map(id, again.ins), leaves, strict=True))
    read = lambda v: v.value if isinstance(v, Const) else env[id(v)]
    for eqn in again.equations:
        outs = eqn.raw.primitive.bind(*map(read, eqn.ins), **eqn.params)
        outs = outs if eqn.raw.primitive.multiple_results else [outs]
        env.update(zip(map(id, eqn.outs), outs, strict=True))
    np.testing.assert_allclose(read(again.outs[0]), fn(params, X), rtol=0, atol=1e-14)
