"""More layers in other forms: more passes over shared weights, ensembles, two streams, stages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import TrainState, growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))


def draw(**shapes):
    return {name: jnp.asarray(RNG.normal(size=shape)) for name, shape in shapes.items()}


def check(fn, small, big, how="uneven", big_fn=None):
    """Plans with identities and compares; returns the plan and the grown parameters."""
    big_fn = big_fn or fn
    plan = growth.plan(fn, big_fn, small, big, X)
    assert plan.proof == "reduced"
    assert growth.Plan.from_json(plan.to_json()) == plan
    grown = plan.grow(small, key=0, how=how)
    a, b = fn(small, X), big_fn(grown, X)
    assert jnp.abs(a - b).max() < 1e-12 * jnp.abs(a).max()
    return plan, grown


# -- more passes over shared weights ------------------------------------------------------------


def core(width=5, **more):
    shapes = {"in": (3, 4), "up": (4, width), "b": (width,), "down": (width, 4), "out": (4, 2)}
    return draw(**shapes, **more)


def block(p, h):
    return jnp.tanh(h @ p["up"] + p["b"]) @ p["down"]


def scanned(count):
    step = lambda p: lambda h, _: (h + block(p, h), None)
    return lambda p, x: jax.lax.scan(step(p), x @ p["in"], None, length=count)[0] @ p["out"]


def counted(count):
    def fn(p, x):
        h = jax.lax.fori_loop(0, count, lambda i, h: h + block(p, h), x @ p["in"])
        return h @ p["out"]

    return fn


def unrolled(count):
    def fn(p, x):
        h = x @ p["in"]
        for _ in range(count):
            h = h + block(p, h)
        return h @ p["out"]

    return fn


def gated(p, x):
    step = lambda h, gate: (h + gate * block(p, h), None)
    return jax.lax.scan(step, x @ p["in"], p["gates"])[0] @ p["out"]


FORMS = pytest.mark.parametrize("form", [scanned, counted, unrolled])


@FORMS
def test_more_passes_are_refused_with_what_can_be_done(form):
    with pytest.raises(growth.GrowthError) as error:
        growth.plan(form(2), form(4), core(), core(), X)
    text = str(error.value)
    assert "no parameter is new that could make the new passes identities" in text
    assert "a gate of its own" in text
    assert "how='stack'" in text
    assert "length=" not in text.split("\n")[0]


@FORMS
def test_more_passes_that_change_the_function(form):
    small = core()
    plan = growth.plan(form(2), form(4), small, small, X, how="stack")
    assert plan.proof == "assumed"
    grown = plan.grow(small, key=0)
    assert all((grown[name] == small[name]).all() for name in small)
    found = plan.realise(0).certificate(form(2), form(4), small, X, tx=optax.sgd(0.1))
    assert found.forward_error["float64"] > 1e-3
    tx = optax.adam(1e-2)
    state = growth.grow(
        TrainState.create(small, tx), form(2), form(4), X, tx=tx, how="stack", big_params=small
    )
    assert (state.params["up"] == small["up"]).all()


@pytest.mark.parametrize("form", [scanned, counted])
@pytest.mark.parametrize("width", [7, 10])
def test_widths_grow_exactly_with_more_passes(form, width):
    small = core()
    plan = growth.plan(form(2), form(4), small, core(width), X, how="stack")
    assert plan.proof == "assumed"
    assert growth.Plan.from_json(plan.to_json()) == plan
    grown = plan.grow(small, key=0)
    assert jnp.abs(form(2)(grown, X) - form(2)(small, X)).max() < 1e-12
    assert jnp.abs(form(4)(grown, X) - form(4)(small, X)).max() < 1e-10


def test_equal_numbers_of_passes_are_still_proved():
    plan = growth.plan(scanned(2), scanned(2), core(), core(10), X, how="stack")
    assert plan.proof == "proved"


@pytest.mark.parametrize("width", [5, 10])
def test_gated_passes_are_exact(width):
    plan, grown = check(gated, core(gates=(2,)), core(width, gates=(4,)))
    assert plan.zeroed == ("gates",)
    assert np.count_nonzero(grown["gates"]) == 2


# -- ensembles ----------------------------------------------------------------------------------


def plain(p, x):
    h = x @ p["in"]
    for layer in p["layers"]:
        h = jax.nn.relu(h @ layer["w"] + layer["b"])
    return h @ p["out"]


def residual_passes(p, x):
    h = x @ p["in"]
    for layer in p["layers"]:
        h = h + jax.nn.relu(h @ layer["w"] + layer["b"]) @ layer["v"]
    return h @ p["out"]


def members(depth, width=4, of=plain, count=3):
    more = {"v": (count, width, width)} if of is residual_passes else {}
    layer = lambda: draw(w=(count, width, width), b=(count, width), **more)
    return {
        **draw(**{"in": (count, 3, width)}, out=(count, width, 2)),
        "layers": [layer() for _ in range(depth)],
    }


@pytest.mark.parametrize("of", [plain, residual_passes])
@pytest.mark.parametrize(("small", "big", "width"), [(2, 3, 4), (1, 2, 4), (2, 4, 8), (2, 4, 7)])
def test_an_ensemble(of, small, big, width):
    fn = lambda p, x: jax.vmap(of, (0, None))(p, x)
    plan, grown = check(fn, members(small, of=of), members(big, width, of=of))
    if of is plain and width == 4:
        (new,) = [leaf.path for leaf in plan.leaves if leaf.layer.becomes == "eyes"]
        w = grown["layers"][int(new.split("/")[1])]["w"]
        assert (w == jnp.eye(4)).all()
        assert "every member starts as an identity" in plan.explain(new)


def test_an_ensemble_of_layers_without_relu_is_refused():
    def smooth(p, x):
        h = x @ p["in"]
        for layer in p["layers"]:
            h = jnp.tanh(h @ layer["w"] + layer["b"])
        return h @ p["out"]

    fn = lambda p, x: jax.vmap(smooth, (0, None))(p, x)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, members(2), members(3), X)


# -- several streams, several stages ------------------------------------------------------------


def two_streams(p, x):
    a, b = x @ p["a"], x @ p["b"]
    for layer in p["layers"]:
        a = a + jnp.tanh(b @ layer["ba"] + a @ layer["aa"] + layer["c"]) @ layer["ao"]
        b = b + jnp.tanh(a @ layer["ab"]) @ layer["bo"]
    return a @ p["oa"] + b @ p["ob"]


def streams(depth, width=5):
    f = lambda: draw(ba=(4, width), aa=(4, width), c=(width,), ao=(width, 4), ab=(4, width),
                     bo=(width, 4))  # fmt: skip
    return {**draw(a=(3, 4), b=(3, 4), oa=(4, 2), ob=(4, 2)), "layers": [f() for _ in range(depth)]}


@pytest.mark.parametrize(("small", "big", "width"), [(1, 2, 5), (2, 4, 10), (2, 3, 7)])
def test_two_residual_streams(small, big, width):
    plan, _ = check(two_streams, streams(small), streams(big, width))
    rests = {path.split("/")[-1] for path in plan.zeroed}
    assert rests == {"ao", "bo"}  # the output of each stream


def staged(p, x):
    for stage in p["stages"]:
        x = x @ stage["enter"]
        for layer in stage["blocks"]:
            x = x + jnp.tanh(x @ layer["up"] + layer["b"]) @ layer["down"]
    return x @ p["out"]


def stages(depths, times=1):
    sizes, width = [3, 4 * times, 6 * times], 5 * times
    made = []
    for i, depth in enumerate(depths):
        n = sizes[i + 1]
        blocks = [draw(up=(n, width), b=(width,), down=(width, n)) for _ in range(depth)]
        made.append({**draw(enter=(sizes[i], n)), "blocks": blocks})
    return {"stages": made, **draw(out=(sizes[-1], 2))}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("small", "big"), [((1, 1), (2, 2)), ((1, 1), (1, 2)), ((1, 2), (2, 3)), ((2, 1), (4, 2))]
)
def test_stages_with_width_at_once(small, big, times):
    check(staged, stages(small), stages(big, times))


def test_fewer_passes_and_other_functions_are_refused():
    for before, after in (
        (scanned(4), scanned(2)),
        (unrolled(4), unrolled(2)),
        (scanned(2), gated),
    ):
        params = core(gates=(2,))
        with pytest.raises(growth.GrowthError):
            growth.plan(before, after, params, params, X, how="stack")


# -- leaves that are not used -------------------------------------------------------------------


def by_name(p, x):
    for name in sorted(set(p) - {"out", "note"}):
        x = x + jnp.tanh(x @ p[name]["up"]) @ p[name]["down"]
    return x @ p["out"]


def test_a_new_layer_may_have_a_leaf_that_is_not_used():
    """As the last layer of a network that drops one of its results: any value will do."""
    layer = draw(up=(3, 4), down=(4, 3), vector=(3, 2))
    small = draw(out=(3, 2))
    plan, grown = check(by_name, small, {**small, "first": layer})
    assert plan.zeroed == ("first/down",)
    assert grown["first"]["vector"].shape == (3, 2)


def test_a_new_module_that_is_not_used_is_named():
    layer, small = draw(up=(3, 4), down=(4, 3)), draw(out=(3, 2))
    with pytest.raises(growth.GrowthError, match=r"has: \['note/kernel'\], which the big function"):
        growth.plan(by_name, by_name, small, {**small, "a": layer, "note": draw(kernel=(3, 2))}, X)


# -- layers that work on transposed values ------------------------------------------------------


@pytest.mark.parametrize("width", [4, 6])
def test_a_mixer_that_transposes_its_stream(width):
    """Channels are mixed, then places in the transposed stream, which is transposed back."""

    def mixed(p, x):
        h = x @ p["in"]
        for layer in p["layers"]:
            h = h + jnp.tanh(h @ layer["up"]) @ layer["down"]
            h = h.T
            h = h + jnp.tanh(h @ layer["places_up"]) @ layer["places_down"]
            h = h.T
        return h @ p["out"]

    def sizes(depth, n):
        one = {"up": (n, 5), "down": (5, n), "places_up": (4, 3), "places_down": (3, 4)}
        return {**draw(**{"in": (3, n), "out": (n, 2)}), "layers": [draw(**one)] * depth}

    plan, _ = check(mixed, sizes(1, 4), sizes(3, width))
    assert [path.split("/")[-1] for path in plan.zeroed] == ["down", "places_down"] * 2


@pytest.mark.parametrize("states", [3, 5, 6])
def test_products_that_are_contracted_in_another_order(states):
    """`jnp.einsum` of three arrays follows the sizes, so it differs with more states and layers."""

    def fn(p, x):
        for w in p["layers"]:
            value, b, c = jnp.split(jnp.tanh(x @ w["in"]), [16, 16 + w["states"].size], -1)
            value = value.reshape(*x.shape[:2], 4, 4)
            decay = jnp.exp(-jnp.abs(value[..., 0]))
            state = jnp.einsum("bln,blh,blhp->bhpn", b * w["states"], decay, value)
            x = (
                x
                + jnp.einsum("bln,bhpn,blh->blhp", c, state, decay).reshape(*x.shape[:2], -1)
                @ w["out"]
            )
        return x

    rng = np.random.default_rng(0)
    layer = lambda k: {"in": rng.normal(size=(6, 16 + 2 * k)), "states": rng.normal(size=k),
                       "out": rng.normal(size=(16, 6))}  # fmt: skip
    of = lambda depth, k: {"layers": [layer(k) for _ in range(depth)]}
    x, small = rng.normal(size=(2, 4, 6)), of(2, 3)
    with jax.enable_x64(True):
        grown = growth.plan(fn, fn, small, of(3, states), x).grow(small, key=jax.random.key(0))
        np.testing.assert_allclose(fn(grown, x), fn(small, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "add",
    [
        lambda x, y: x + y + 0.0,
        lambda x, y: (x + 0.0) + y,
        lambda x, y: x + (y - 0.0),
        lambda x, y: jnp.zeros_like(x) + x + y,
        lambda x, y: 1.0 * x + y,
        lambda x, y: (x + y) / 1.0,
        lambda x, y: jnp.where(True, x + y, x),
    ],
)
def test_constants_that_do_nothing(add):
    """An option that is off, or a sum that starts from zeros, is in every layer."""

    def fn(p, x):
        for w in p["layers"]:
            x = add(x, jnp.tanh(x @ w["up"]) @ w["down"])
        return x @ p["out"]

    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    of = lambda n: {"layers": [{"up": draw(3, 4), "down": draw(4, 3)} for _ in range(n)],
                    "out": draw(3, 2)}  # fmt: skip
    x, small = draw(5, 3), of(2)
    grown = growth.plan(fn, fn, small, of(3), x).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, x), fn(small, x), rtol=1e-5, atol=1e-6)  # float32
