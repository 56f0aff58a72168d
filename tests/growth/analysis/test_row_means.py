"""LayerNorm streams at sizes that are not multiples: new units hold the mean of the old units."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth import zoo
from tests.growth.analysis.test_padding import X, draw, s
from tests.growth.checking import predicted
from tests.growth.zoo.building import as_dtype, randomised
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")


def centred(x, g, b):
    rest = x - x.mean(-1, keepdims=True)
    return g * rest / jnp.sqrt((rest**2).mean(-1, keepdims=True) + 1e-2) + b


def fast(x, g, b):
    mean = jnp.sum(x, -1) * (1 / x.shape[-1])
    variance = jnp.maximum(0.0, jnp.mean(x * x, -1) - mean**2)
    rest = x - jnp.broadcast_to(mean[..., None], x.shape)
    return rest * jax.lax.rsqrt(variance + 1e-2)[..., None] * g + b


def library(x, g, b):
    mean, variance = x.mean(-1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return (x - mean) * (jax.lax.rsqrt(variance + 1e-2) * g) + b


NORMS = {"centred": centred, "fast": fast, "library": library}


def model(norm, act=jax.nn.gelu):
    def run(p, x):
        h = x @ p["in"] + p["b"]
        h = jnp.where(x[..., :1] > 0, h, h * 0.5) + p["gain"] * h
        for i in range(2):
            h = h + act(norm(h, p[f"g{i}"], p[f"s{i}"]) @ p[f"up{i}"]) @ p[f"down{i}"]
        return norm(h, p["g"], p["s"]) @ p["out"]

    return run


def shapes(d, f=5):
    blocks = [
        {f"g{i}": s(d), f"s{i}": s(d), f"up{i}": s(d, f), f"down{i}": s(f, d)} for i in range(2)
    ]
    ends = {"in": s(6, d), "b": s(d), "gain": s(), "g": s(d), "s": s(d), "out": s(d, 3)}
    return ends | blocks[0] | blocks[1]


@pytest.mark.parametrize("wide", [6, 11])
@pytest.mark.parametrize("name", NORMS)
def test_exact_at_any_width(name, wide):
    """One more unit, or nearly three times as many; ε is large and the program's own."""
    fn = model(NORMS[name])
    params = draw(shapes(5))
    plan = growth.plan(fn, fn, shapes(5), shapes(wide, 7), X)
    assert growth.Plan.from_json(plan.to_json()) == plan
    assert "row mean" in plan.table()
    run = jax.jit(fn)
    wanted = run(params, X)
    for how in ("uneven", "noise"):
        grown = plan.grow(params, key=jax.random.key(1), how=how)
        found = run(grown, X)
        np.testing.assert_allclose(found, wanted, atol=1e-12 * float(jnp.abs(wanted).max()))


def loss(fn, p):
    return jnp.sum(jnp.sin(fn(p, X)))


def test_gradients_as_the_plan_says():
    """What reads the stream has an exact gradient; what writes it has not, and the plan says so."""
    fn, params = model(fast), draw(shapes(5))
    plan = growth.plan(fn, fn, shapes(5), shapes(8), X)
    maps = plan.realise(None, "even").leaves
    exact = {name for name, how in maps.items() if how.exact_gradient}
    assert exact == {"gain", "g", "s", "out", "g0", "s0", "up0", "g1", "s1", "up1"}
    before = jax.jit(jax.grad(lambda p: loss(fn, p)))(params)
    after = jax.jit(jax.grad(lambda p: loss(fn, p)))(plan.grow(params, how="even"))
    for name in exact:
        wanted, known = predicted(np.asarray(before[name]), maps[name])
        assert np.abs(np.where(known, after[name] - wanted, 0)).max() < 1e-12 * np.abs(wanted).max()


def test_new_units_learn():
    """None is dead: whatever is 0, or is an exact mean, has a slope or gets one in a step."""
    fn, params = model(library), draw(shapes(5))
    plan = growth.plan(fn, fn, shapes(5), shapes(8), X)
    grown = plan.grow(params, key=jax.random.key(0))
    slope = jax.jit(jax.grad(lambda p: loss(fn, p)))
    first = slope(grown)
    moved = jax.tree.map(lambda w, g: w - 1e-2 * g, grown, first)
    second = slope(moved)
    for name, axis in [("in", 1), ("down0", 1), ("up0", 0), ("g0", 0), ("s0", 0), ("out", 0)]:
        new = [np.take(np.asarray(t[name]), [5, 6, 7], axis) for t in (first, second)]
        alive = np.abs(np.stack(new)).reshape(2, -1).max(0)
        assert (alive > 1e-6).all(), name
    # And they come apart: no two of the new rows of a reader stay equal.
    rows = np.asarray(moved["up0"])[5:]
    assert np.abs(rows[0] - rows[1]).max() > 1e-2


def test_follows_step_for_step():
    """Means move with what they are means of, as long as the continuation is exact."""
    fn, params = model(fast), draw(shapes(5))
    tx = optax.adamw(1e-2, weight_decay=0.1)
    plan = growth.plan(fn, fn, shapes(5), shapes(8), X)
    options = {"key": jax.random.key(1), "how": "uneven"}
    big = plan.grow(params, **options)

    def run(tx, params, state):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: loss(fn, p))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.jit(lambda c: jax.lax.scan(step, c, None, 40))((params, state))[1]

    with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes
        state = plan.realise(**options).opt_state(tx, tx.init(params), params, big)
        small = run(tx, params, tx.init(params))
        follow = run(plan.realise(**options).exact(tx), big, state)
    np.testing.assert_allclose(follow, small, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "name",
    [n if n == "scanned" else pytest.param(n, marks=pytest.mark.slow)
     for n in ("gpt", "gpt merged", "gpt scaled", "gpt shared", "vit", "encoder-decoder",
               "scanned", "experts", "nnx", "gmlp")],
)  # fmt: skip
def test_published_models(name):
    entry, wider = zoo.REGISTRY[name], {"d": 7} if name == "gmlp" else {"width": 11}
    (small_fn, small), (big_fn, big) = entry.at(), entry.at(**wider)
    small, big = (as_dtype(t, jnp.float64) for t in (small, big))
    inputs = [jnp.asarray(x, None if x.dtype.kind == "i" else "float64") for x in entry.inputs]
    params = randomised(small)
    plan = growth.plan(small_fn, big_fn, small, big, *inputs)
    grown = plan.grow(params, key=jax.random.key(1), like=big)
    wanted, found = jax.jit(small_fn)(params, *inputs), jax.jit(big_fn)(grown, *inputs)
    np.testing.assert_allclose(found, wanted, atol=1e-12 * float(jnp.abs(wanted).max()))


def after_norm(p, x):
    h = centred(x @ p["in"], p["g0"], p["s0"])
    h = centred(h + jnp.tanh(h @ p["up0"]) @ p["down0"], p["g1"], p["s1"])
    return h @ p["out"]


def bent(p, x):
    return centred(jax.nn.gelu(x @ p["in"]), p["g"], p["s"]) @ p["out"]


def scaled_branch(p, x):
    h = x @ p["in"]
    h = h + p["g0"] * (jnp.tanh(h @ p["up0"]) @ p["down0"])
    return centred(h, p["g"], p["s"]) @ p["out"]


@pytest.mark.parametrize("fn", [after_norm, bent, scaled_branch], ids=lambda f: f.__name__)
def test_refused_where_nothing_can_write_the_mean(fn):
    with pytest.raises(growth.GrowthError, match="the mean of the old units behind a LayerNorm") as caught:
        growth.plan(fn, fn, shapes(5), shapes(8), X)
    assert "10, 15" in caught.value.hint
    assert caught.value.axis == "5→8"
    params = draw(shapes(5))
    grown = growth.plan(fn, fn, shapes(5), shapes(10), X).grow(params, key=jax.random.key(0))
    run = jax.jit(fn)
    wanted = run(params, X)
    np.testing.assert_allclose(run(grown, X), wanted, atol=1e-12 * float(jnp.abs(wanted).max()))


def near_misses():
    """Constructions that look like x − mean(x) and are not."""
    norm = lambda rest, p: rest / jnp.sqrt((rest**2).mean(-1, keepdims=True) + 1e-2) @ p["out"]
    yield "another mean", lambda p, x: norm((h := x @ p["in"]) - jnp.flip(h, 1).mean(-1)[..., None],
                                            p)  # fmt: skip
    yield "twice the mean", lambda p, x: norm((h := x @ p["in"]) - 2 * h.mean(-1)[..., None], p)
    yield "of all places", lambda p, x: norm((h := x @ p["in"]) - h.mean((1, 2), keepdims=True), p)
    yield "of the square", lambda p, x: norm((h := x @ p["in"]) - (h * h).mean(-1)[..., None], p)


@pytest.mark.parametrize(("name", "fn"), list(near_misses()))
def test_what_is_no_mean_is_refused(name, fn):
    small, big = ({"in": s(6, d), "out": s(d, 3)} for d in (5, 8))
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, small, big, X)


def test_a_mean_over_an_axis_in_the_middle(x64):
    """Channels before time: to 6 of 4 units, where new ones hold the mean of the old."""

    def net(p, x):
        h = jnp.einsum("bit,ic->bct", x, p["in"])
        h = h - h.mean(1, keepdims=True)
        h = h / jnp.sqrt(jnp.square(h).mean(1, keepdims=True) + 1e-3)
        return jnp.einsum("bct,co->bot", h, p["out"])

    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s))
    small, big = ({"in": draw(3, n), "out": draw(n, 2)} for n in (4, 6))
    x = draw(5, 3, 7)
    plan = growth.plan(net, net, small, big, x)
    assert plan.grown_axes[0].layout == "row mean"
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(net(grown, x), net(small, x), rtol=1e-11)


def test_a_mean_by_a_share_that_is_rounded():
    """In half precision 1/6 is 0.16663, which stands for nothing else."""

    def net(n):
        share = jnp.asarray(1 / n, jnp.float16)

        def fn(p, x):
            h = x @ p["in"]
            h = h - h.sum(-1, keepdims=True) * share
            spread = jnp.square(h).sum(-1, keepdims=True) * share
            return (h / jnp.sqrt(spread + jnp.asarray(1e-3, jnp.float16))) @ p["out"]

        return fn

    of = lambda n: {name: jax.ShapeDtypeStruct(shape, jnp.float16)
                    for name, shape in (("in", (3, n)), ("out", (n, 2)))}  # fmt: skip
    plan = growth.plan(net(4), net(6), of(4), of(6), jax.ShapeDtypeStruct((5, 3), jnp.float16))
    assert plan.grown_axes[0].layout == "row mean"
