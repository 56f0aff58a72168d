"""What an error advises works, and is about the model at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3))


def f(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def refusal(fn, small, big, x=X, big_fn=None):
    with pytest.raises(growth.GrowthError) as error:
        growth.plan(fn, big_fn or fn, small, big, x)
    return error.value


def exact(fn, small, big, x=X):
    grown = growth.plan(fn, fn, small, big, x).grow(small, key=0)
    assert jnp.abs(fn(grown, x) - fn(small, x)).max() < 1e-12


def test_layers_of_a_while_loop():
    def picked(loop):
        def fn(p, x):
            step = lambda i, h: h + jnp.tanh(h @ p["up"][i]) @ p["down"][i]
            return loop(p["up"].shape[0], step, x)

        return fn

    def until(n, step, x):
        return jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, step(*c)), (0, x))[1]

    of = lambda n: {"up": f(n, 3, 4), "down": f(n, 4, 3)}
    error = refusal(picked(until), of(2), of(4))
    assert "axis 0 of down cannot grow 2→4: a `while_loop` picks layers" in str(error)
    assert "jax.lax.fori_loop" in error.hint
    exact(picked(lambda n, step, x: jax.lax.fori_loop(0, n, step, x)), of(2), of(4))


def test_groups_that_cross_the_seam_of_a_concatenation():
    def fn(p, x):
        h = jnp.concatenate([x @ p["a"], x @ p["b"]], -1).reshape(5, 4, -1)
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return jnp.tanh(h.reshape(5, -1)) @ p["out"]

    of = lambda a, b: {"a": f(3, a), "b": f(3, b), "out": f(a + b, 2)}
    error = refusal(fn, of(5, 3), of(9, 7))
    assert "parts of 5 → 9 and 3 → 7 units are divided into groups that cross" in str(error)
    assert error.hint == "grow every part by the same whole factor: 5 → 10 and 3 → 6"
    exact(fn, of(5, 3), of(10, 6))


@pytest.mark.parametrize("more", [8, 15])
def test_the_nearest_entry_of_a_codebook(more):
    def fn(p, x):
        z = jnp.tanh(x @ p["in"])
        nearest = jnp.argmin(jnp.square(z[:, None] - p["code"]).sum(-1), -1)
        return p["code"][nearest] @ p["out"]

    of = lambda n: {"in": f(3, 4), "code": f(n, 4), "out": f(4, 2)}
    small = of(6)
    error = refusal(fn, small, of(more))
    assert "axis 0 of code cannot grow" in str(error)
    assert f"table[jnp.arange({more}) % 6]" in error.hint
    by_hand = {**small, "code": small["code"][jnp.arange(more) % 6]}
    assert (fn(by_hand, X) == fn(small, X)).all()


def test_more_modes_of_a_spectrum():
    def fn(p, x):
        modes, count = jnp.fft.rfft(x, axis=1), p["w"].shape[0]
        mixed = modes[:, :count] * p["w"].astype(modes.dtype)
        mixed = jnp.pad(mixed, [(0, 0), (0, modes.shape[1] - count)])
        return jnp.tanh(jnp.fft.irfft(mixed, x.shape[1], axis=1)) @ p["out"]

    x = RNG.normal(size=(5, 16))
    of = lambda n: {"w": f(n), "out": f(16, 2)}
    small = of(3)
    error = refusal(fn, small, of(5), x)
    assert "a slice takes 3 of 9 entries in the small model, and 5 in the big one" in str(error)
    assert "jnp.pad" in error.hint
    by_hand = {**small, "w": jnp.pad(small["w"], (0, 2))}
    assert jnp.abs(fn(by_hand, x) - fn(small, x)).max() < 1e-12


def layered(act, root=False, norm=False):
    def layer(h, p):
        h = act(h @ p["w"] + p["b"]) * (jnp.sqrt(jnp.abs(p["g"])) if root else 1.0)
        return h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-6) if norm else h

    def unrolled(p, x):
        for one in p["layers"]:
            x = layer(x, one)
        return x

    scanned = lambda p, x: jax.lax.scan(lambda h, q: (layer(h, q), None), x, p["layers"])[0]
    return unrolled, scanned


def layers(count, stacked, root):
    one = lambda *lead: {
        "w": f(*lead, 3, 3),
        "b": f(*lead, 3),
        **({"g": f(*lead, 3)} if root else {}),
    }
    return {"layers": one(count) if stacked else [one() for _ in range(count)]}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("root", "norm"), [(False, False), (True, False), (False, True)])
def test_gates_are_advised_behind_norms_alone(stacked, root, norm):
    fn = layered(jnp.tanh, root, norm)[stacked]
    error = refusal(fn, layers(2, stacked, root), layers(3, stacked, root))
    assert ("gate" in error.hint) == norm
    assert ("ReLU between them" in error.hint) == (not norm)
