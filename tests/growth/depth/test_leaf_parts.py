"""New layers with a leaf whose parts have to be different things: 1 in one, and 0 in another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(5, 4))


def draw(sizes):
    """Random parameters, none of which are small."""
    rng = np.random.default_rng(1)
    one = lambda s: jnp.asarray(rng.normal(0.4, 1.0, size=s))
    return jax.tree.map(one, sizes, is_leaf=lambda s: isinstance(s, tuple))


def over_layers(layer, looped, context):
    """A model of these layers, in Python or as a loop."""

    def fn(p, x):
        start = jax.nn.relu(x @ p["into"])
        given = jnp.tanh(x @ p["context"]) if context else start

        def step(h, q):
            return layer(q, h, given), None

        if looped:
            return jax.lax.scan(step, start, p["blocks"])[0] @ p["from"]
        h = start
        for q in p["blocks"]:
            h, _ = step(h, q)
        return h @ p["from"]

    return fn


def halves_of_film(q, h, given):
    """FiLM without 1 + γ: one matrix for γ and β."""
    gamma, beta = jnp.split(given @ q["film"] + q["shift"], 2, -1)
    return jax.nn.relu((h @ q["matrix"] + q["bias"]) * gamma + beta)


def pairs_of_film(q, h, given):
    """The same, with an axis of two, in front of a residual block."""
    both = (given @ q["film"] + q["shift"]).reshape(len(h), 2, -1)
    h = h * both[:, 0] + both[:, 1]
    return h + jax.nn.gelu(h @ q["matrix"] + q["bias"]) @ q["down"]


def einsum_of_film(q, h, given):
    """The same, with an axis of two in the parameters."""
    both = jnp.einsum("bk,ksn->bsn", given, q["film"]) + q["shift"]
    h = h * both[:, 0] + both[:, 1]
    return h + jax.nn.gelu(h @ q["matrix"] + q["bias"]) @ q["down"]


def first_values(q, h, given):
    """The stream and the first values, mixed by two numbers."""
    h = q["mix"][0] * h + q["mix"][1] * given
    return h + jax.nn.gelu(h @ q["matrix"]) @ q["down"]


def vector_mixes(q, h, given):
    """The same with two vectors in one array; the block has a factor for its input too."""
    keep, add, scale = q["mix"]
    h = keep * h + given * add
    return h + jax.nn.gelu(h * scale @ q["matrix"]) @ q["down"]


def weighted_sum(q, h, given):
    """A residual sum with two numbers, in front of a ReLU without parameters of its own."""
    mixed = q["mix"][:1] * h + jax.nn.gelu(h @ q["matrix"] + q["bias"]) * q["mix"][1:]
    return mixed


def film_sizes(pairs=False, axis=False):
    def of(n):
        shape = (2, n) if axis else (2 * n,)
        rest = {"down": (n, n)} if pairs else {}
        film = {"film": (6, *shape), "shift": shape}
        return film | {"matrix": (n, n), "bias": (n,)} | rest

    return of


def mixing(mix, bias=False):
    def of(n):
        shapes = {"mix": (3, n) if mix == 3 else (mix,), "matrix": (n, n)}
        return shapes | ({"bias": (n,)} if bias else {"down": (n, n)})

    return of


# A layer, its shapes, and whether it reads a context.
CASES = {
    "halves of FiLM": (halves_of_film, film_sizes(), True),
    "pairs of FiLM": (pairs_of_film, film_sizes(pairs=True), True),
    "FiLM by einsum": (einsum_of_film, film_sizes(pairs=True, axis=True), True),
    "first values": (first_values, mixing(2), False),
    "vectors": (vector_mixes, mixing(3), False),
    "weighted sum": (weighted_sum, mixing(2, bias=True), False),
}


def model(case, looped):
    layer, shapes, context = CASES[case]

    def sizes(depth, width):
        ends = {"into": (4, width), "from": (width, 2)}
        ends |= {"context": (4, 6)} if context else {}
        one = shapes(width)
        if looped:
            return ends | {"blocks": {name: (depth, *s) for name, s in one.items()}}
        return ends | {"blocks": [one] * depth}

    return over_layers(layer, looped, context), sizes


@pytest.mark.parametrize("looped", [False, True], ids=["python", "scan"])
@pytest.mark.parametrize(("depth", "width"), [(3, 4), (4, 8), (3, 6)])
@pytest.mark.parametrize("case", CASES)
def test_exact(case, depth, width, looped):
    fn, sizes = model(case, looped)
    small, big = draw(sizes(2, 4)), draw(sizes(depth, width))
    plan = growth.plan(fn, fn, small, big, X)
    assert plan.proof == "reduced"
    read = growth.Plan.from_json(plan.to_json())
    assert read == plan
    wanted = fn(small, X)
    for way in (plan, read):
        for how in ("even", "uneven", "noise", "zero_out"):
            grown = way.grow(small, key=jax.random.key(0), how=how, like=big)
            assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
            error = jnp.abs(fn(grown, X) - wanted).max()
            assert error <= 1e-12 * jnp.abs(wanted).max()


def test_what_parts_hold():
    fn, sizes = model("halves of FiLM", False)
    small, big = draw(sizes(2, 4)), draw(sizes(3, 6))
    plan = growth.plan(fn, fn, small, big, X)
    (path,) = [leaf.path for leaf in plan.leaves if leaf.layer and leaf.layer.becomes == "parts"]
    grown = plan.grow(small, key=jax.random.key(0))["blocks"][int(path.split("/")[1])]
    np.testing.assert_array_equal(grown["shift"], [1.0] * 6 + [0.0] * 6)
    assert not np.any(grown["film"])
    words = "its parts along axis 0 start differently, so that nothing changes: 1 (6), 0 (6)"
    assert words in plan.explain(path)
    assert "new: parts" in str(plan)


def test_parts_that_may_be_anything():
    """Those that are behind a 0 are copies of the old layer's."""
    fn, sizes = model("vectors", False)
    small = draw(sizes(2, 4))
    for width in (4, 8):
        plan = growth.plan(fn, fn, small, draw(sizes(3, width)), X)
        (new,) = [leaf for leaf in plan.leaves if leaf.layer.becomes == "parts"]
        assert new.layer.parts == ((1, "unit"), (1, "zero"), (1, "copy"))
        blocks = plan.grow(small, key=jax.random.key(0))["blocks"]
        mix, old = (blocks[int(path.split("/")[1])]["mix"] for path in (new.path, new.source))
        np.testing.assert_array_equal(mix[:2], np.outer([1, 0], np.ones(width)))
        np.testing.assert_array_equal(mix[2], old[2])


def test_rows_picked_by_number():
    """All pairs of numbers in one array, of which every layer reads its own."""

    def fn(p, x):
        h = first = x @ p["into"]
        for i, q in enumerate(p["blocks"]):
            h = p["pairs"][i, 0] * h + p["pairs"][i, 1] * first
            h = h + jax.nn.gelu(h @ q["matrix"]) @ q["down"]
        return h @ p["from"]

    def sizes(depth, width):
        block = {"matrix": (width, width), "down": (width, width)}
        ends = {"into": (4, width), "from": (width, 2)}
        return ends | {"pairs": (depth, 2), "blocks": [block] * depth}

    small = draw(sizes(2, 4))
    for depth, width in ((3, 4), (5, 6)):
        plan = growth.plan(fn, fn, small, draw(sizes(depth, width)), X)
        assert growth.Plan.from_json(plan.to_json()) == plan
        grown = plan.grow(small, key=jax.random.key(0))
        np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=1e-12, atol=1e-12)
        rows = np.asarray(grown["pairs"]).tolist()
        assert rows.count([1.0, 0.0]) == depth - 2
        assert all(row in rows for row in np.asarray(small["pairs"]).tolist())


def test_along_the_first_axis_of_a_loop():
    """The layers of the pairs are their last axis."""

    def fn(p, x):
        first = x @ p["into"]

        def step(h, row):
            pair, q = row
            h = pair[0] * h + pair[1] * first
            return h + jax.nn.gelu(h @ q["matrix"]) @ q["down"], None

        return jax.lax.scan(step, first, (p["pairs"].T, p["blocks"]))[0] @ p["from"]

    def sizes(depth):
        blocks = {"matrix": (depth, 4, 4), "down": (depth, 4, 4)}
        return {"into": (4, 4), "from": (4, 2), "pairs": (2, depth), "blocks": blocks}

    small = draw(sizes(2))
    plan = growth.plan(fn, fn, small, draw(sizes(4)), X)
    grown = plan.grow(small)
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=1e-12, atol=1e-12)
    assert np.asarray(grown["pairs"]).T.tolist().count([1.0, 0.0]) == 2


WAYS = {
    "around 1": (lambda mix: (1 + mix[0], mix[1] + 1), True),
    "one of them around 1": (lambda mix: (mix[0], mix[1] + 1), True),
    "as a whole too": (lambda mix: (mix[0], mix[1] + mix.sum()), False),
    "in parts that overlap": (lambda mix: (mix[:2].sum(), mix[1:].sum()), False),
    "the same part twice": (lambda mix: (mix[0], mix[0]), False),
}


@pytest.mark.parametrize("looped", [False, True], ids=["python", "scan"])
@pytest.mark.parametrize("way", WAYS)
def test_ways_to_read(way, looped):
    """Where two parts would have to hold the same numbers, there is no identity."""
    read, possible = WAYS[way]

    def layer(q, h, given):
        keep, add = read(q["mix"])
        h = keep * h + add * given
        return h + jax.nn.gelu(h @ q["matrix"]) @ q["down"]

    fn = over_layers(layer, looped, False)

    def sizes(depth):
        one = {"mix": (3,), "matrix": (4, 4), "down": (4, 4)}
        ends = {"into": (4, 4), "from": (4, 2)}
        if looped:
            return ends | {"blocks": {name: (depth, *s) for name, s in one.items()}}
        return ends | {"blocks": [one] * depth}

    small = draw(sizes(2))
    if not possible:
        with pytest.raises(growth.GrowthError, match="cannot be"):
            growth.plan(fn, fn, small, draw(sizes(3)), X)
        return
    plan = growth.plan(fn, fn, small, draw(sizes(3)), X)
    np.testing.assert_allclose(fn(plan.grow(small), X), fn(small, X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tx", [optax.adam(1e-2), optax.adafactor(1e-2), optax.contrib.muon(1e-2)])
def test_moments(tx):
    fn, sizes = model("halves of FiLM", False)
    small, big = draw(sizes(2, 4)), draw(sizes(3, 8))
    growth_map = growth.plan(fn, fn, small, big, X).realise(0)
    grown = growth_map.params(small)
    state = growth_map.opt_state(tx, tx.init(small), small, grown)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(grown))


def test_interleaved_parts_are_refused():
    """Behind a matrix from another width, which is no identity either."""

    def layer(q, h, given):
        both = jax.nn.silu(given @ q["first"]) @ q["second"] + q["shift"]
        return h * both[..., ::2] + both[..., 1::2]

    fn = over_layers(layer, False, True)
    one = {"first": (6, 7), "second": (7, 8), "shift": (8,)}
    sizes = lambda depth: {
        "into": (4, 4),
        "context": (4, 6),
        "from": (4, 2),
        "blocks": [one] * depth,
    }
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, draw(sizes(2)), draw(sizes(3)), X)
