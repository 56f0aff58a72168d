"""LayerNorm streams at sizes that are not multiples: new units hold the mean of the old units."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.checking import predicted, small
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")


def sides(name):
    """Parameters of a model of the zoo, the loss of it, that of a wider one, and the plan."""
    it = small(name, "float64")
    loss = lambda fn: lambda p: jnp.sum(jnp.sin(fn(p, *it.inputs)))
    return it.params, loss(it.fn), loss(it.big("8")[0]), it.plan("8")


def test_gradients_as_the_plan_says():
    """What reads the stream has an exact gradient; what writes it has not, and the plan says so."""
    params, before, after, plan = sides("row means, fast")
    maps = plan.realise(None, "even").leaves
    exact = {name for name, how in maps.items() if how.exact_gradient}
    assert exact == {"gain", "g", "s", "out", "g0", "s0", "up0", "g1", "s1", "up1"}
    old = jax.jit(jax.grad(before))(params)
    new = jax.jit(jax.grad(after))(plan.grow(params, how="even"))
    for name in exact:
        wanted, known = predicted(np.asarray(old[name]), maps[name])
        assert np.abs(np.where(known, new[name] - wanted, 0)).max() < 1e-12 * np.abs(wanted).max()


def test_a_convolution_may_write_the_stream():
    """Its kernel holds the mean over its channels in new units, as a matrix does."""

    def net(p, x):
        h = jax.lax.conv_general_dilated(
            x, p["k"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        rest = h - h.mean(-1, keepdims=True)
        return rest / jnp.sqrt((rest**2).mean(-1, keepdims=True) + 1e-2) @ p["out"]

    rng = np.random.default_rng(0)
    draw = lambda d: {"k": rng.normal(size=(3, 2, d)), "out": rng.normal(size=(d, 3))}
    params, x = draw(5), rng.normal(size=(2, 6, 2))
    grown = growth.plan(net, net, params, draw(8), x).grow(params, key=jax.random.key(0))
    old, new = np.split(grown["k"], [5], -1)
    np.testing.assert_allclose(new, old.mean(-1, keepdims=True).repeat(3, -1), rtol=1e-12)
    np.testing.assert_allclose(net(grown, x), net(params, x), rtol=1e-12, atol=1e-12)


def test_the_mean_along_one_of_two_axes_is_not_taken_along_the_other():
    """A vector of means is subtracted from each column here, whose means it does not hold."""

    def net(p, x):
        h = (x @ p["a"])[:, :, None] * (x @ p["b"])[:, None, :]
        rest = h - h.mean(1)[:, :, None]
        y = rest / jnp.sqrt((rest**2).mean(1, keepdims=True) + 1e-2)
        return jnp.einsum("bij,i,j", y, p["rows"], p["columns"])

    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float64)
    sizes = lambda d: {"a": shape(6, d), "b": shape(6, d), "rows": shape(d), "columns": shape(d)}
    x = np.random.default_rng(0).normal(size=(4, 6))
    with pytest.raises(growth.GrowthError, match="not a multiple"):
        growth.plan(net, net, sizes(5), sizes(8), x)


def test_new_units_learn():
    """None is dead: whatever is 0, or is an exact mean, has a slope or gets one in a step."""
    params, _, after, plan = sides("row means, library")
    grown = plan.grow(params, key=jax.random.key(0))
    slope = jax.jit(jax.grad(after))
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
    params, before, after, plan = sides("row means, fast")
    tx = optax.adamw(1e-2, weight_decay=0.1)
    options = {"key": jax.random.key(1), "how": "uneven"}
    big = plan.grow(params, **options)

    def run(tx, loss, params, state):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.jit(lambda c: jax.lax.scan(step, c, None, 40))((params, state))[1]

    with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes
        state = plan.realise(**options).opt_state(tx, tx.init(params), params, big)
        wanted = run(tx, before, params, tx.init(params))
        follow = run(plan.realise(**options).exact(tx), after, big, state)
    np.testing.assert_allclose(follow, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["after_norm", "bent", "scaled_branch"])
def test_where_nothing_can_write_the_mean_multiples_are_asked_for(kind):
    with pytest.raises(growth.GrowthError, match="the mean of the old units") as caught:
        small(f"row means, {kind}", "float64").plan("8")
    assert "10, 15" in caught.value.hint
    assert caught.value.axis == "5→8"


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


BACK = {
    "reshaped": lambda v: v.mean(-1).reshape(*v.shape[:-1], 1),
    "broadcast": lambda v: jax.lax.broadcast_in_dim(v.mean(-1), v.shape, (0, 1)),
    "of one": lambda v: jnp.broadcast_to(v.mean(-1, keepdims=True), v.shape),
}


@pytest.mark.parametrize(("back", "batch"), [("reshaped", 1), *((name, 5) for name in BACK)])
def test_a_mean_that_comes_back_to_its_axis(back, batch, x64):
    """Also with a batch of one, whose axis a reshape cannot tell from others of size 1."""
    mean = BACK[back]

    def net(p, x):
        h = x @ p["in"]
        h = h - mean(h)
        return (h / jnp.sqrt(mean(jnp.square(h)) + 1e-3)) @ p["out"]

    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s))
    small, big = ({"in": draw(3, n), "out": draw(n, 2)} for n in (4, 6))
    x = draw(batch, 7, 3)
    plan = growth.plan(net, net, small, big, x)
    assert plan.grown_axes[0].layout == "row mean"
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(net(grown, x), net(small, x), rtol=1e-11)


MORE_ROWS = {
    "rows of equal numbers": lambda p, h: jnp.concatenate(
        [jnp.broadcast_to(h.mean(-1, keepdims=True), h.shape), h], 1
    ),
    "a row of a parameter": lambda p, h: jnp.concatenate([h, p["row"] + 0 * h[:, :1]], 1),
    "rows of zeros": lambda p, h: jnp.pad(h, ((0, 0), (1, 1), (0, 0))),
    "one row in all places": lambda p, h: h + jnp.broadcast_to(p["row"], h.shape),
    "other rows": lambda p, h: h[:, ::-1],
    "rows that are looked up": lambda p, h: h[:, jnp.array([2, 0, 0])],
}


@pytest.mark.parametrize("rows", MORE_ROWS)
def test_rows_that_are_added_and_moved(rows, x64):
    """Of a stream that holds its mean in new units, those that are constant along it, too."""

    def net(p, x):
        h = MORE_ROWS[rows](p, x @ p["in"])
        h = h - h.mean(-1, keepdims=True)
        return (h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-3)) @ p["out"]

    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s))
    small, big = ({"in": draw(3, n), "row": draw(n), "out": draw(n, 2)} for n in (4, 6))
    x = draw(5, 7, 3)
    plan = growth.plan(net, net, small, big, x)
    assert plan.grown_axes[0].layout == "row mean"
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(net(grown, x), net(small, x), rtol=1e-11, atol=1e-12)


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
