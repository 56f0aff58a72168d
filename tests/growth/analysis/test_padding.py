"""Which parameters are 0 in new units that copy nothing, and the operators that need such units.

Every case is in float64 with random biases and scales: outputs agree to 1e-12 of their size.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth
from trainkit.growth.analysis.scales import padding
from trainkit.growth.views.vocabulary import leaked_mass

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 6))
TOKENS = RNG.integers(0, 7, (2, 4))
IMAGES = RNG.normal(size=(2, 6, 6, 3))


def s(*shape):
    return jax.ShapeDtypeStruct(shape, np.float64)


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)


def attention(p, x, turn=lambda v: v):
    q = turn(jnp.einsum("btd,dhe->bthe", x, p["q"]) + p["bq"])
    k = turn(jnp.einsum("btd,dhe->bthe", x, p["k"]) + p["bk"])
    v = jnp.einsum("btd,dhe->bthe", x, p["v"]) + p["bv"]
    b, t, h, e = q.shape
    groups = k.shape[2]
    q = q.reshape(b, t, groups, h // groups, e)
    scores = jnp.einsum("btgre,bsge->bgrts", q, k) / np.sqrt(e)
    mixed = jnp.einsum("bgrts,bsge->btgre", jax.nn.softmax(scores), v)
    return mixed.reshape(b, t, -1) @ p["o"] + p["bo"]


def attention_shapes(heads, groups, each, value, d=6):
    return {
        "q": s(d, heads, each), "k": s(d, groups, each), "v": s(d, groups, value),
        "bq": s(heads, each), "bk": s(groups, each), "bv": s(groups, value),
        "o": s(heads * value, d), "bo": s(d),
    }  # fmt: skip


def rotary(p, x):
    def turn(v):
        n = v.shape[-1]
        angle = np.arange(v.shape[1])[:, None] / 100.0 ** (np.arange(0, n, 2) / n)
        cos, sin = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
        a, b = jnp.split(v, 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    return attention(p, x, turn)


def conv(p, x, stride=1, pad="SAME"):
    y = jax.lax.conv_general_dilated(
        x, p["k"], (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(y + p["b"]).mean((1, 2)) @ p["o"]


def conv_shapes(size, channels=4):
    return {"k": s(size, size, 3, channels), "b": s(channels), "o": s(channels, 2)}


def language(p, tokens):
    h = p["e"][tokens] + p["pos"][: tokens.shape[1]]
    return jax.nn.gelu(h @ p["w"]) @ p["head"] + p["b"]


def language_shapes(vocabulary, length, d=4):
    return {
        "e": s(vocabulary, d), "pos": s(length, d), "w": s(d, 5), "head": s(5, vocabulary),
        "b": s(vocabulary),
    }  # fmt: skip


def tied(p, tokens):
    return jax.nn.gelu(jnp.take(p["e"], tokens, axis=0) @ p["w"]) @ p["e"].T


def tied_shapes(vocabulary):
    return {"e": s(vocabulary, 4), "w": s(4, 4)}


CASES = {
    "heads 2 → 4": (attention, attention_shapes(2, 2, 4, 4), attention_shapes(4, 4, 4, 4), X),
    "heads 2 → 3": (attention, attention_shapes(2, 2, 4, 4), attention_shapes(3, 3, 4, 4), X),
    "query and key 4 → 6": (
        attention, attention_shapes(2, 2, 4, 4), attention_shapes(2, 2, 6, 4), X
    ),
    "value 4 → 6": (attention, attention_shapes(2, 2, 4, 4), attention_shapes(2, 2, 4, 6), X),
    "rotary 4 → 8": (rotary, attention_shapes(2, 2, 4, 4), attention_shapes(2, 2, 8, 4), X),
    "groups 2 → 4": (attention, attention_shapes(4, 2, 4, 4), attention_shapes(8, 4, 4, 4), X),
    "groups 2 → 3": (attention, attention_shapes(4, 2, 4, 4), attention_shapes(6, 3, 4, 4), X),
    "group size 2 → 4": (attention, attention_shapes(4, 2, 4, 4), attention_shapes(8, 2, 4, 4), X),
    "kernel 3 → 5": (conv, conv_shapes(3), conv_shapes(5), IMAGES),
    "kernel 1 → 5 and width": (conv, conv_shapes(1), conv_shapes(5, 7), IMAGES),
    "kernel 3 → 5, stride 2": (
        lambda p, x: conv(p, x, 2), conv_shapes(3), conv_shapes(5), IMAGES
    ),
    "vocabulary 7 → 9": (language, language_shapes(7, 6), language_shapes(9, 6), TOKENS),
    "tied vocabulary": (tied, tied_shapes(7), tied_shapes(10), TOKENS),
    "positions 6 → 9": (language, language_shapes(7, 6), language_shapes(7, 9), TOKENS),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator_is_exact(name):
    fn, small, big, x = CASES[name]
    params = draw(small)
    plan = growth.plan(fn, fn, small, big, x)
    run = jax.jit(fn)
    wanted = run(params, x)
    for how in ("uneven", "even"):
        grown = plan.grow(params, key=jax.random.key(1), how=how)
        assert jax.tree.map(jnp.shape, grown) == jax.tree.map(lambda leaf: leaf.shape, big)
        found = run(grown, x)[tuple(map(slice, wanted.shape))]
        np.testing.assert_allclose(found, wanted, atol=1e-12 * float(jnp.abs(wanted).max()))


def test_nothing_is_dead_under_rotary_growth():
    """The new pairs of queries or of keys are 0, never both: after a step, all of them move."""
    fn, small, big, x = CASES["rotary 4 → 8"]
    grown = growth.plan(fn, fn, small, big, x).grow(draw(small), key=jax.random.key(1))
    at_zero = {name: bool((grown[name] == 0).any()) for name in ("q", "k")}
    assert sorted(at_zero.values()) == [False, True]
    slope = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(fn(p, x)))))
    moved = jax.tree.map(lambda w, g: w - 0.01 * g, grown, slope(grown))
    again = slope(moved)
    for name in ("q", "k"):
        assert (again[name] != 0).all()


def test_old_positions_stay_where_they_are():
    fn, small, big, x = CASES["positions 6 → 9"]
    params = draw(small)
    grown = growth.plan(fn, fn, small, big, x).grow(params, key=jax.random.key(1))
    np.testing.assert_array_equal(grown["pos"][:6], params["pos"])
    longer = np.zeros((2, 6), int)
    np.testing.assert_allclose(fn(grown, longer), fn(params, longer), rtol=1e-12)


def test_new_tokens_take_a_bounded_share():
    fn, small, big, x = CASES["vocabulary 7 → 9"]
    plan = growth.plan(fn, fn, small, big, x)
    params = draw(small)
    logits = fn(plan.grow(params, key=jax.random.key(1)), x)
    mean = fn(params, x).mean(-1)
    np.testing.assert_allclose(logits[..., 7], mean, rtol=1e-10)
    leaked = leaked_mass(logits, 7)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(leaked, shares[..., 7:].sum(-1).mean(), rtol=1e-12)
    assert 0 < leaked < 2 / 9
    assert "in results they follow the old entries" in plan.table()
    with pytest.raises(ValueError, match="old=10"):
        leaked_mass(logits, 10)


def scaled(p, x):
    h = x @ p["stream"]
    y = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-3) * p["scale"]
    h = h + jax.nn.relu(y @ p["in"] + p["b"]) @ p["out"]
    return h @ p["head"]


def stream_shapes(d, hidden):
    return {
        "stream": s(6, d), "scale": s(d), "in": s(d, hidden), "b": s(hidden), "out": s(hidden, d),
        "head": s(d, 2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "zero", "free"),
    [
        ((("in", 1),), {"out": 0}, {"in": 1}),
        ((("stream", 1),), {"stream": 1, "head": 0}, {"in": 0, "out": 1}),
    ],
)
def test_append_leaves_the_old_units_where_they_are(selection, zero, free):
    small = stream_shapes(4, 6)
    big = stream_shapes(4, 12) if zero == {"out": 0} else stream_shapes(8, 6)
    params = draw(small)
    plan = growth.plan(scaled, scaled, small, big, X, append=selection)
    grown = plan.grow(params, key=jax.random.key(0))
    np.testing.assert_allclose(scaled(grown, X), scaled(params, X), rtol=1e-11, atol=1e-12)
    for name, axis in zero.items():
        new = np.moveaxis(np.asarray(grown[name]), axis, 0)[small[name].shape[axis] :]
        assert (new == 0).all()
    for name, axis in free.items():
        new = np.moveaxis(np.asarray(grown[name]), axis, 0)[small[name].shape[axis] :]
        assert (new != 0).all()
    assert growth.Plan.from_json(plan.to_json()) == plan


def test_the_certificate_of_a_plan_in_the_optimizers_state():
    """New units get no momentum, and the mean second moment of their row or column."""
    import optax

    small, big = stream_shapes(4, 6), stream_shapes(4, 9)
    params = draw(small)
    plan = growth.plan(scaled, scaled, small, big, X, append=[("in", 1)])
    tx = optax.scale_by_adam()
    state = tx.init(params)
    state = state._replace(mu=draw(small, 1), nu=jax.tree.map(jnp.square, draw(small, 2)))
    grown = plan.realise(jax.random.key(0)).opt_state(tx, state, params)
    np.testing.assert_array_equal(grown.mu["in"][:, 6:], 0.0)
    np.testing.assert_array_equal(grown.mu["in"][:, :6], state.mu["in"])
    assert (grown.nu["in"][:, 6:] > 0).all()


@pytest.mark.parametrize("dimension", [1, 2])
def test_append_within_attention(dimension):
    """New heads: a softmax is over places, so that what it divides by is positive there too."""
    small = attention_shapes(2, 2, 4, 4)
    big = attention_shapes(*((4, 4, 4, 4) if dimension == 1 else (2, 2, 6, 4)))
    params = draw(small)
    plan = growth.plan(attention, attention, small, big, X, append=[("^q$", dimension)])
    grown = plan.grow(params, key=jax.random.key(0))
    np.testing.assert_allclose(attention(grown, X), attention(params, X), rtol=1e-11, atol=1e-12)
    old = tuple(map(slice, small["q"].shape))
    both = grown["q"][old] / params["q"] * (grown["k"][old] / params["k"])
    # One of the two makes up for the larger divisor √d′.
    np.testing.assert_allclose(both, np.sqrt(big["q"].shape[2] / 4), rtol=1e-12)
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(attention(p, X))))
    moved = jax.tree.map(lambda w, g: w - 0.01 * g, grown, slope(grown))
    again = slope(moved)
    for name in ("q", "k", "v", "o"):
        assert (again[name] != 0).all()


def similarity(p, x):
    """A non-linear function of a product of activations: no parameter reads the axis."""
    x = x.reshape(-1, 6)
    one, other = jnp.split(x @ p["both"], 2, -1) if "both" in p else (x @ p["one"], x @ p["other"])
    return jnp.tanh(jax.nn.silu(one) @ jax.nn.silu(other).T)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("size", [6, 8, 9, 12])
@pytest.mark.parametrize("asked", [False, True])
def test_where_copies_would_count_twice_new_units_copy_none(fused, size, asked):
    sizes = lambda n: {"both": s(6, 2 * n)} if fused else {"one": s(6, n), "other": s(6, n)}
    append = [(name, 1) for name in sizes(4)] if asked else []
    params = draw(sizes(4))
    plan = growth.plan(similarity, similarity, sizes(4), sizes(size), X, append=append)
    grown = plan.grow(params, key=jax.random.key(0))
    np.testing.assert_allclose(similarity(grown, X), similarity(params, X), rtol=1e-11, atol=1e-12)
    if not fused:  # in one matrix both parts are 0 in new units: zeros are known by axis and leaf
        new = [grown[name][:, 4:] for name in ("one", "other")]
        zero, free = sorted(new, key=lambda w: float(jnp.abs(w).max()))
        assert (zero == 0).all()
        assert (free != 0).all()


def test_what_divides_must_be_positive():
    def ratio(p, x):
        return (x @ p["a"]) / (x @ p["b"]) @ p["out"]

    sizes = lambda n: {"a": s(6, n), "b": s(6, n), "out": s(n, 2)}
    with pytest.raises(growth.GrowthError, match="enter `div`"):
        growth.plan(ratio, ratio, sizes(3), sizes(6), X, append=[("a", 1)])
    params = draw(sizes(3))
    plan = growth.plan(ratio, ratio, sizes(3), sizes(6), X)
    grown = plan.grow(params, key=jax.random.key(0))
    np.testing.assert_allclose(ratio(grown, X), ratio(params, X), rtol=1e-9)


def test_conditions():
    a, b, c = (padding.of(i, 0, 9) for i in range(3))
    mean = padding.of(1, 0, 9, padding.MEAN)
    place = lambda i, holds=padding.ZERO: (i, 0, 9, holds)
    need = lambda condition, readers=(): padding.Need(condition, readers, None, ())
    assert padding.both([a, None]) is None
    assert padding.either([]) is None
    assert padding.both([a, b]) == frozenset({frozenset({place(0), place(1)})})
    assert padding.both([b, mean]) is None  # 0 and the mean of the old ones at once
    assert padding.either([a, padding.both([a, b])]) == a
    # One zero serves two needs; a reader rather than what it reads.
    assert padding.choose([need(padding.either([a, b])), need(b)]) == {place(1)}
    assert padding.choose([need(padding.either([a, c]), [2])]) == {place(2)}
    # What holds a mean is not 0 too; a normalised mean is 0 by itself, and has a slope.
    chosen = padding.choose([need(mean), need(padding.either([b, c]))])
    assert chosen == {place(1, padding.MEAN), place(2)}
    behind = padding.either([c, padding.both([mean, a])])
    assert place(0) in padding.choose([need(mean), need(behind, [2])])


REFUSALS = {
    "stride 2, even size": (
        lambda p, x: conv(p, x, 2), conv_shapes(1), conv_shapes(3), IMAGES,
        "the old taps would move",
    ),
    "no more padding": (
        partial(conv, pad="VALID"), conv_shapes(3), conv_shapes(4), IMAGES,
        "the old taps would move",
    ),
    "groups without queries": (
        attention, attention_shapes(4, 2, 4, 4), attention_shapes(4, 4, 4, 4), X,
        "shrinks from 2 to 1",
    ),
    "frequencies": (
        rotary, attention_shapes(2, 2, 4, 4), attention_shapes(2, 2, 6, 4), X,
        "heads instead of head_dim",
    ),
    "a hidden result": (
        lambda p, x: (x @ p["stream"], scaled(p, x)), stream_shapes(4, 6), stream_shapes(8, 6), X,
        "sums over that axis",
    ),
    "a loss over the vocabulary": (
        lambda p, x: jax.nn.log_softmax(language(p, x))[..., 0], language_shapes(7, 6),
        language_shapes(9, 6), TOKENS, "not a multiple",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name):
    fn, small, big, x, text = REFUSALS[name]
    with pytest.raises(growth.GrowthError, match=text) as caught:
        growth.plan(fn, fn, small, big, x)
    assert caught.value.hint
    assert caught.value.axis or name == "groups without queries"


def test_append_names_an_axis_that_grows():
    with pytest.raises(growth.GrowthError, match="names no axis that grows"):
        growth.plan(
            scaled,
            scaled,
            stream_shapes(4, 6),
            stream_shapes(4, 9),
            X,
            append=[("in", 0)],
        )
