"""Flows of coupling layers: a new layer leaves both halves as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6))
PLACES = np.array([2, 5, 0, 4, 1, 3])
join = jnp.concatenate


def couple(p, half, other):
    """(the other half, scaled and shifted; the logarithm of the determinant)"""
    h = jnp.tanh(half @ p["up"] + p["b"])
    log_scale = jnp.tanh(h @ p["scale"] + p["bs"]) * p["gain"]
    return other * jnp.exp(log_scale) + h @ p["shift"] + p["bt"], log_scale.sum(-1)


def alternating(x, p, i):
    a, b = jnp.split(x, 2, -1)
    if i % 2:
        a, d = couple(p, b, a)
    else:
        b, d = couple(p, a, b)
    return join([a, b], -1), d


def reversing(x, p, i):
    b, d = couple(p, x[:, :3], x[:, 3:])
    return join([x[:, :3], b], -1)[:, ::-1], d


def permuting(x, p, i):
    x = x[:, PLACES if i % 2 else np.argsort(PLACES)]
    b, d = couple(p, x[:, :3], x[:, 3:])
    return join([x[:, :3], b], -1), d


def swapping(x, p, i):
    b, d = couple(p, x[:, :3], x[:, 3:])
    return join([b, x[:, :3]], -1), d


def interleaved(x, p, i):
    b, d = couple(p, x[:, i % 2 :: 2], x[:, 1 - i % 2 :: 2])
    return x.at[:, 1 - i % 2 :: 2].set(b), d


def masked(x, p, i):
    mask = jnp.asarray((np.arange(6) + i) % 2, x.dtype)
    h = jnp.tanh((x * mask)[:, :3] @ p["up"] + p["b"])
    h = join([h @ p["scale"], h @ p["scale"]], -1)
    log_scale = jnp.tanh(h) * (1 - mask) * p["gain"].sum()
    shift = (join([h[:, :3], h[:, 3:]], -1) * p["gain"].sum()) * (1 - mask)
    return x * mask + (1 - mask) * (x * jnp.exp(log_scale) + shift), log_scale.sum(-1)


def flow(layer):
    def fn(params, x):
        x, total = jnp.asarray(x), 0.0
        for i, p in enumerate(params["layers"]):
            x, d = layer(x, p, i)
            total = total + d
        return x, total

    return fn


def layers(depth, width=5):
    f = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    one = lambda: {"up": f(3, width), "b": f(width), "scale": f(width, 3), "bs": f(3),
                   "gain": f(3), "shift": f(width, 3), "bt": f(3)}  # fmt: skip
    return {"layers": [one() for _ in range(depth)]}


EXACT = [
    (alternating, 2, 3), (alternating, 2, 4), (alternating, 1, 3), (reversing, 2, 4),
    (reversing, 1, 3), (permuting, 2, 4), (swapping, 2, 4), (interleaved, 2, 3),
    (interleaved, 2, 4), (masked, 2, 3), (masked, 2, 4),
]  # fmt: skip


@pytest.mark.parametrize("width", [5, 10, 7])
@pytest.mark.parametrize(("layer", "before", "after"), EXACT)
def test_more_coupling_layers(layer, before, after, width):
    fn, small = flow(layer), layers(before)
    plan = growth.plan(fn, fn, small, layers(after, width), X)
    assert plan.proof == "reduced"
    grown = plan.grow(small, key=0, how="uneven")
    for old, new in zip(fn(small, X), fn(grown, X), strict=True):
        assert jnp.abs(new - old).max() < 1e-12 * jnp.abs(old).max()


@pytest.mark.parametrize(("layer", "after"), [(reversing, 3), (permuting, 3), (swapping, 3)])
def test_layers_that_leave_the_halves_in_another_order_are_refused(layer, after):
    """One such layer is no identity, whatever its parameters are; two are."""
    fn, small = flow(layer), layers(2)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, small, layers(after), X)


def test_adam_goes_on_after_more_coupling_layers():
    fn, small = flow(alternating), layers(2)
    plan = growth.plan(fn, fn, small, layers(4), X)
    growth_map, tx = plan.realise(0), optax.adamw(1e-3)

    def loss(p):
        z, total = fn(p, X)
        return jnp.mean(0.5 * jnp.square(z).sum(-1) - total)

    state = tx.init(small)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(small), state, small)
            small = optax.apply_updates(small, updates)
    grown = growth_map.params(small)
    moments = growth_map.opt_state(tx, state, small, grown)
    assert jnp.abs(loss(grown) - loss(small)) < 1e-12
    new = {path.split("/")[1] for path in growth_map.new}
    (old,) = [i for i in range(1, 4) if str(i) not in new]
    mine, theirs = (s[0].nu["layers"] for s in (moments, state))
    for there, here in ((0, 0), (old, 1)):
        for name, value in mine[there].items():
            np.testing.assert_allclose(value, theirs[here][name], rtol=1e-12)
    # New layers learn from the first step on.
    slopes = jax.grad(loss)(grown)["layers"]
    assert all(jnp.any(slopes[int(i)]["shift"]) for i in new)


C = float(np.log(np.expm1(0.99)))
SCALES = {
    "1 + tanh(r)": lambda r: 1 + jnp.tanh(r),
    "2 · sigmoid(r)": lambda r: 2 * jax.nn.sigmoid(r),
    "softplus(r + c) + 0.01": lambda r: jax.nn.softplus(r + C) + 0.01,
    "softplus(r) / log 2": lambda r: jax.nn.softplus(r) / np.log(2.0),
    "exp(tanh(r))": lambda r: jnp.exp(jnp.tanh(r)),
    "leaky": lambda r: 1 + jax.nn.leaky_relu(r),
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_scales_that_are_1_at_0(scale):
    """Computed from numbers alone once the layer's last parameters are 0, and the logarithm too."""

    def layer(x, p, i):
        h = jnp.tanh(x[:, :3] @ p["up"] + p["b"])
        s = scale(h @ p["scale"] + p["bs"])
        moved = x[:, 3:] * s + h @ p["shift"] + p["bt"]
        return join([x[:, :3], moved], -1)[:, ::-1], jnp.log(jnp.abs(s)).sum(-1)

    fn, small = flow(layer), layers(2)
    grown = growth.plan(fn, fn, small, layers(4), X).grow(small, key=0)
    for old, new in zip(fn(small, X), fn(grown, X), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at_0", [1.001, 0.0, -1.0])
def test_scales_that_are_not_1_at_0(at_0):
    """They are refused, or another parameter makes them 1."""

    def layer(x, p, i):
        h = jnp.tanh(x[:, :3] @ p["up"] + p["b"])
        moved = x[:, 3:] * (at_0 + jnp.tanh(h @ p["scale"])) + h @ p["shift"]
        return join([x[:, :3], moved], -1)[:, ::-1], 0.0

    fn, small = flow(layer), layers(2)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, small, layers(4), X)


@pytest.mark.parametrize("width", [5, 8])
def test_halves_of_mixed_channels(width):
    """A matrix mixes them, and its transpose mixes them back: an identity in a new layer."""

    def layer(x, p, i):
        y = x @ p["mix"]
        h = jnp.tanh(y[:, :3] @ p["up"] + p["b"])
        raw = h @ p["scale"] + p["bs"]
        moved = (y[:, 3:] + h @ p["shift"] + p["bt"]) * (2 * jax.nn.sigmoid(raw))
        change = jax.nn.log_sigmoid(raw) + jnp.log(2.0)
        return join([y[:, :3], moved], -1) @ p["mix"].T, change.sum(-1)

    def of(depth, width=5):
        params = layers(depth, width)
        for p in params["layers"]:
            p["mix"] = jnp.asarray(RNG.normal(size=(6, 6)))
        return params

    fn, small = flow(layer), of(2)
    grown = growth.plan(fn, fn, small, of(3, width), X).grow(small, key=0)
    assert any((p["mix"] == jnp.eye(6)).all() for p in grown["layers"])
    for old, new in zip(fn(small, X), fn(grown, X), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)
