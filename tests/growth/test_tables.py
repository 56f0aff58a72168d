"""Tables that grow: concatenated ones, constant ones (one-hot rows), and slopes behind a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 5, (4, 6)).astype(np.int32)


def f(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def joined(p):
    return jnp.concatenate([p["special"], p["words"]], 0)


def read(p, x):
    return jnp.tanh(joined(p)[x] @ p["w"]) @ p["out"]


def tied_table(p, x):
    return jnp.tanh(joined(p)[x] @ p["w"]) @ joined(p).T


def positions(p, x):
    return jnp.tanh(p["embed"][x] + joined(p)[: x.shape[1]]) @ p["out"]


def tables(words, width=4):
    return {"special": f(2, width), "words": f(words, width), "w": f(width, width),
            "out": f(width, 3), "embed": f(9, width)}  # fmt: skip


def only(fn, params):
    """The parameters that a function uses."""
    unused = {read: ("embed",), tied_table: ("embed", "out"), positions: ("w",)}[fn]
    return {name: value for name, value in params.items() if name not in unused}


@pytest.mark.parametrize("fn", [read, tied_table, positions])
@pytest.mark.parametrize(("words", "width"), [(8, 4), (10, 4), (8, 8), (7, 7)])
def test_the_last_of_the_concatenated_tables_grows(fn, words, width):
    small = only(fn, tables(5))
    plan = growth.plan(fn, fn, small, only(fn, tables(words, width)), TOKENS)
    grown = plan.grow(small, key=0, how="uneven")
    old, new = fn(small, TOKENS), fn(grown, TOKENS)[..., : fn(small, TOKENS).shape[-1]]
    assert jnp.abs(new - old).max() < 1e-12
    if width == 4:
        np.testing.assert_array_equal(grown["words"][:5], small["words"])


def test_another_part_than_the_last_is_refused():
    small, big = only(read, tables(5)), only(read, {**tables(5), "special": f(3, 4)})
    with pytest.raises(growth.GrowthError) as error:
        growth.plan(read, read, small, big, TOKENS)
    text = str(error.value)
    assert "axis 0 of special cannot grow 2→3" in text
    assert "concatenate the part that grows last" in text


def one_hot(n):
    rows = lambda x: jax.nn.one_hot(x, n, dtype=jnp.float64)
    return lambda p, x: jnp.tanh(rows(x) @ p["w"] + p["b"]) @ p["out"]


def identity(n):
    rows = lambda x: jnp.eye(n, dtype=jnp.float64)[x]
    return lambda p, x: jnp.tanh(rows(x) @ p["w"] + p["b"]) @ p["out"]


def weights(n, width=4):
    return {"w": f(n, width), "b": f(width), "out": f(width, 3)}


@pytest.mark.parametrize("form", [one_hot, identity])
@pytest.mark.parametrize(("n", "width"), [(8, 4), (10, 4), (15, 8), (7, 6)])
def test_one_hot_rows_of_more_symbols(form, n, width):
    small, before, after = weights(5), form(5), form(n)
    plan = growth.plan(before, after, small, weights(n, width), TOKENS)
    growth_map, tx = plan.realise(0), optax.adamw(1e-2)
    grown = growth_map.params(small)
    assert jnp.abs(after(grown, TOKENS) - before(small, TOKENS)).max() < 1e-12
    # New symbols are read with 0, and learn: the second moments of their rows are not 0.
    assert not grown["w"][5:].any()
    loss = lambda fn: lambda p: jnp.sum(jnp.sin(fn(p, TOKENS)))
    with jax.numpy_dtype_promotion("standard"):
        slope = jax.grad(loss(before))(small)
        _, state = tx.update(slope, tx.init(small), small)
    moments = growth_map.opt_state(tx, state, small, grown)[0]
    assert (moments.nu["w"][5:] > 0).all()
    assert not moments.mu["w"][5:].any()
    fresh = jax.grad(lambda p: jnp.sum(jnp.sin(after(p, TOKENS + n - 5))))(grown)["w"][5:]
    assert fresh.any()


def test_a_one_hot_row_that_is_not_only_read_is_refused():
    """A sum over it, or its entropy, sees new entries, whatever the parameters are."""

    def summed(n):
        def fn(p, x):
            rows = jnp.arange(n, dtype=jnp.float64) + x.astype(jnp.float64)[..., None]
            return jnp.tanh(rows @ p["w"] + jnp.sin(rows).sum(-1, keepdims=True)) @ p["out"]

        return fn

    small, big = weights(5), weights(8)
    small.pop("b"), big.pop("b")
    with pytest.raises(growth.GrowthError, match="axis 0 of w cannot grow 5→8"):
        growth.plan(summed(5), summed(8), small, big, TOKENS)


def test_a_table_whose_old_entries_change_is_still_refused():
    def fn(p, x):
        d = p["w"].shape[0]
        table = jnp.sin(jnp.arange(6.0)[:, None] / 100.0 ** (jnp.arange(d) / d))
        return jnp.tanh(table[x] @ p["w"]) @ p["out"]

    small, big = weights(4), weights(6)
    small.pop("b"), big.pop("b")
    with pytest.raises(growth.GrowthError, match="not a duplicate"):
        growth.plan(fn, fn, small, big, TOKENS)


@pytest.mark.parametrize("heads", [4, 6])
def test_slopes_behind_a_mask(heads):
    """A mask that is the same for every head comes first, and leaves the layout to the slopes."""

    def make(count):
        def fn(p, x):
            q, k, v = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in "qkv")
            scores = jnp.einsum("bthd,bshd->bhts", q, k)
            places = jnp.arange(x.shape[1])
            seen = jnp.broadcast_to(places[:, None] >= places, scores.shape)
            slopes = (2.0 ** (-8 / count)) ** jnp.arange(1.0, count + 1)
            far = (places - places[:, None]).astype(x.dtype)
            weights = jnp.where(seen, scores, -1e9) + slopes[:, None, None] * far
            return jnp.einsum("bhts,bshd,hdo->bto", jax.nn.softmax(weights), v, p["o"])

        return fn

    rng = np.random.default_rng(0)
    sizes = lambda n: {**dict.fromkeys("qkv", (3, n, 2)), "o": (n, 2, 3)}
    small = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in sizes(2).items()}
    big = {name: jax.ShapeDtypeStruct(shape, jnp.float64) for name, shape in sizes(heads).items()}
    x = jnp.asarray(rng.normal(size=(2, 5, 3)))
    grown = growth.plan(make(2), make(heads), small, big, x).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(make(heads)(grown, x), make(2)(small, x), rtol=0, atol=1e-12)


NUMBERS = RNG.integers(-60, 60, (4, 6)).astype(np.int32)


def hashed(p, x):
    """Two hash functions, each with a table of its own, and a number for what is missing."""
    first = jnp.where(x == 7, 0, x % p["first"].shape[0])
    second = (x * 31 + 5) % p["second"].shape[0]
    rows = p["first"][first] + jnp.take(p["second"], second, axis=0)
    return jnp.tanh(rows @ p["w"] + p["b"]) @ p["out"]


def hash_tables(n, m, width):
    return {"first": f(n, width), "second": f(m, width), "w": f(width, 6), "b": f(6),
            "out": f(6, 3)}  # fmt: skip


def buckets(rel, n):
    """T5's buckets of relative positions: the sign, near ones one by one, far ones by logarithm."""
    half, far = n // 2, np.abs(rel)
    near = half // 2
    wide = near + np.log(np.maximum(far, 1) / near) / np.log(16 / near) * (half - near)
    return (rel > 0) * half + np.where(far < near, far, np.minimum(wide.astype(int), half - 1))


def relative(p, x):
    rel = np.arange(6) - np.arange(6)[:, None]
    which = jnp.asarray(buckets(rel, p["bias"].shape[0]))
    q, k, v = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in "qkv")
    scores = jnp.einsum("bthd,bshd->bhts", q, k) + p["bias"][which].transpose(2, 0, 1)
    return jnp.einsum("bhts,bshd,hdo->bto", jax.nn.softmax(scores), v, p["o"])


def attention(n, heads):
    return {"bias": f(n, heads), **{name: f(3, heads, 2) for name in "qkv"}, "o": f(heads, 2, 3)}


LOOKED_UP = {
    "both tables": (hashed, hash_tables, (11, 5, 4), (22, 15, 4)),
    "one of them": (hashed, hash_tables, (11, 5, 4), (11, 10, 4)),
    "tables and width": (hashed, hash_tables, (11, 5, 4), (33, 10, 7)),
    "buckets": (relative, attention, (8, 2), (16, 2)),
    "a few more buckets": (relative, attention, (8, 2), (12, 2)),
    "buckets and heads": (relative, attention, (8, 2), (16, 4)),
}


def looked_up(name):
    """A function, parameters of both sizes, and an input."""
    fn, sizes, small, big = LOOKED_UP[name]
    return fn, sizes(*small), sizes(*big), NUMBERS if fn is hashed else f(2, 6, 3)


@pytest.mark.parametrize("name", LOOKED_UP)
def test_rows_that_are_copies(name):
    fn, small, big, x = looked_up(name)
    plan = growth.plan(fn, fn, small, big, x)
    for how in ("even", "uneven", "noise", "zero_out"):
        grown = plan.grow(small, key=0, how=how)
        np.testing.assert_allclose(fn(grown, x), fn(small, x), rtol=0, atol=1e-12)
    for leaf in plan.leaves:  # every copy has a gradient of its own
        copied = leaf.path in ("first", "second", "bias") and leaf.small[0] < leaf.big[0]
        assert leaf.calibrated == copied


@pytest.mark.parametrize("name", ["both tables", "a few more buckets"])
def test_moments_of_rows_that_are_copies(name):
    fn, small, big, x = looked_up(name)
    growth_map, tx = growth.plan(fn, fn, small, big, x).realise(0, "even"), optax.adamw(1e-2)
    grown = growth_map.params(small)
    with jax.numpy_dtype_promotion("standard"):
        slope = jax.grad(lambda p: jnp.sum(jnp.sin(fn(p, x))))(small)
        _, state = tx.update(slope, tx.init(small), small)
    (moments, *_), (old, *_) = growth_map.opt_state(tx, state, small, grown), state
    for path in {"first", "second", "bias"} & set(small):
        rows = growth_map.leaves[path].axes[0].source
        count = np.bincount(rows)[rows].astype(float)[:, None]
        np.testing.assert_array_equal(grown[path], small[path][rows])
        np.testing.assert_allclose(moments.mu[path], old.mu[path][rows] / count, rtol=1e-12)
        np.testing.assert_allclose(moments.nu[path], old.nu[path][rows] / count**2, rtol=1e-12)


@pytest.mark.parametrize("name", LOOKED_UP)
def test_rows_that_are_copies_continue_exactly(name):
    fn, small, big, x = looked_up(name)
    growth_map, tx = growth.plan(fn, fn, small, big, x).realise(0), optax.adamw(1e-2)
    grown, exact = growth_map.params(small), growth_map.exact(tx)
    loss = lambda p: jnp.sum(jnp.sin(fn(p, x)))
    with jax.numpy_dtype_promotion("standard"):
        states = tx.init(small), exact.init(grown)
        for _ in range(4):
            updates, first = tx.update(jax.grad(loss)(small), states[0], small)
            more, second = exact.update(jax.grad(loss)(grown), states[1], grown)
            states = first, second
            small, grown = optax.apply_updates(small, updates), optax.apply_updates(grown, more)
    np.testing.assert_allclose(fn(grown, x), fn(small, x), rtol=0, atol=1e-10)


def test_a_plan_of_copied_rows_survives_json_and_explains_itself():
    fn, small, big, x = looked_up("a few more buckets")
    plan = growth.plan(fn, fn, small, big, x)
    assert growth.Plan.from_json(plan.to_json()) == plan
    text = plan.explain("bias")
    assert "as many neighbouring copies as its number here says" in text
    assert "moments are a best guess" in text
    assert set(plan.grown_axes[0].layout[1:]) == {1, 2}


def test_rows_that_are_copies_may_be_contracted_too():
    """Unequal numbers of copies are split over what else is contracted with them."""

    which = lambda p: jnp.asarray(buckets(np.arange(-6, 6), p["bias"].shape[0]))
    gated = lambda p, x: jnp.tanh(x @ p["w"]) * p["g"] @ p["bias"] + p["bias"][which(p)].sum(0)
    sizes = lambda n: {"bias": f(n, 3), "w": f(3, n), "g": f(n)}
    small, x = sizes(8), f(4, 3)
    plan = growth.plan(gated, gated, small, sizes(12), x)
    for how in ("even", "uneven", "noise", "zero_out"):
        grown = plan.grow(small, key=0, how=how)
        np.testing.assert_allclose(gated(grown, x), gated(small, x), atol=1e-12)


def test_remainders_are_not_returned():
    fn = lambda p, x: (p["first"][x % p["first"].shape[0]], x % p["first"].shape[0])
    small, big = ({"first": f(n, 2)} for n in (5, 10))
    with pytest.raises(growth.GrowthError, match="result 1 holds remainders by 5 in the small"):
        growth.plan(fn, fn, small, big, NUMBERS)


def test_a_table_of_parts_is_not_looked_up_by_a_remainder():
    fn = lambda p, x: joined(p)[x % joined(p).shape[0]]
    small, big = ({"special": f(2, 4), "words": f(n, 4)} for n in (2, 6))
    with pytest.raises(growth.GrowthError, match="look rows up in a table that is one parameter"):
        growth.plan(fn, fn, small, big, NUMBERS)


def test_a_table_is_not_looked_up_by_a_remainder_and_by_a_number():
    fn = lambda p, x: p["t"][x % p["t"].shape[0]] + p["t"][TOKENS]
    small, big = {"t": f(5, 4)}, {"t": f(10, 4)}
    with pytest.raises(growth.GrowthError, match="two different layouts"):
        growth.plan(fn, fn, small, big, NUMBERS)


def test_constants_are_compared_piece_by_piece(monkeypatch):
    monkeypatch.setattr("trainkit.growth.analysis.constants.PIECE", 2)
    pick = lambda *index: lambda p, x: p["t"][jnp.asarray(index)] @ x
    plan = lambda *big: growth.plan(
        pick(0, 1, 2, 1, 0, 0), pick(*big), {"t": f(3, 2)}, {"t": f(5, 2)}, f(2)
    )
    assert plan(0, 2, 4, 3, 0, 1).grown_axes[0].layout == ("copies", 2, 2, 1)
    with pytest.raises(growth.GrowthError, match="row 2 of the big one would have to be a copy"):
        plan(0, 2, 4, 3, 0, 2)


def test_buckets_of_a_result_that_grows_are_refused():
    def fn(p, x):
        which = jnp.asarray(buckets(np.arange(-6, 6), p["bias"].shape[0]))
        return p["bias"][which].sum() + x.sum(), p["bias"]

    with pytest.raises(growth.GrowthError, match="two different layouts"):
        growth.plan(fn, fn, {"bias": f(8, 2)}, {"bias": f(16, 2)}, f(4, 3))
