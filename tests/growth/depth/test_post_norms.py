"""New layers whose branch ends with a norm: its scale is what removes them, not a matrix behind it.

With the matrix at 0 the norm divides by √ε alone, and the first gradient is 1/√ε times too large.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4))
EPS = 1e-6
pytestmark = pytest.mark.usefixtures("x64")


def rms(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPS)


def centred(x):
    return rms(x - jnp.mean(x, -1, keepdims=True))


# How a norm ends -> what the scale and the shift of a new layer hold.
ENDS = {
    "scale": (lambda x, g, b: rms(x) * g, ("zero", None)),
    "1 + scale": (lambda x, g, b: rms(x) * (1 + g), ("minus_one", None)),
    "scale + 1, of another shape": (
        lambda x, g, b: rms(x) * (jnp.expand_dims(g, 0) + 1.0), ("minus_one", None)),
    "scale − 1": (lambda x, g, b: rms(x) * (g - 1), ("unit", None)),
    "1 − scale": (lambda x, g, b: rms(x) * (1 - g), ("unit", None)),
    "at another precision": (
        lambda x, g, b: rms(x) * (1 + g.astype(jnp.float32)).astype(x.dtype), ("minus_one", None)),
    "scale and shift": (lambda x, g, b: centred(x) * g + b, ("zero", "zero")),
    "1 + scale, and shift": (lambda x, g, b: centred(x) * (1 + g) + b, ("minus_one", "zero")),
}  # fmt: skip


def layer(end, p, x):
    return x + end(jnp.tanh(rms(x) @ p["up"]) @ p["down"], p["scale"], p.get("shift"))


def unrolled(end):
    def model(p, x):
        x = x @ p["in"]
        for each in p["layers"]:
            x = layer(end, each, x)
        return x @ p["out"]

    return model


def scanned(end):
    def model(p, x):
        step = lambda carry, each: (layer(end, each, carry), None)
        return jax.lax.scan(step, x @ p["in"], p["layers"])[0] @ p["out"]

    return model


def draw(depth, width=6, hidden=8, shift=False):
    f = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    one = lambda: {
        "up": f(width, hidden), "down": f(hidden, width), "scale": f(width),
        **({"shift": f(width)} if shift else {}),
    }  # fmt: skip
    return {"in": f(4, width), "out": f(width, 3), "layers": [one() for _ in range(depth)]}


def stacked(params):
    layers = jax.tree.map(lambda *rows: jnp.stack(rows), *params["layers"])
    return {**params, "layers": layers}


def size(tree):
    return float(jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree))))


@pytest.mark.parametrize("after", [{}, {"hidden": 12}, {"width": 12}], ids=str)
@pytest.mark.parametrize("name", ENDS)
def test_the_scale_removes_new_layers(name, after):
    end, (scale, shift) = ENDS[name]
    model, small = unrolled(end), draw(2, shift=shift is not None)
    plan = growth.plan(model, model, small, draw(4, **after, shift=shift is not None), X)
    assert plan.proof == "reduced"
    plan = growth.Plan.from_json(plan.to_json())
    grown = plan.grow(small, key=0)
    before, now = model(small, X), model(grown, X)
    assert jnp.abs(now - before).max() < 1e-12 * jnp.abs(before).max()
    becomes = {leaf.path: leaf.layer.becomes for leaf in plan.leaves if leaf.layer.new}
    new = sorted({path.split("/")[1] for path in becomes})
    assert len(new) == 2
    for i in new:
        assert becomes[f"layers/{i}/scale"] == scale
        assert becomes.get(f"layers/{i}/shift") == shift
        assert becomes[f"layers/{i}/down"] != "zero"
    # The first gradient of a new layer is no larger than those of old ones are.
    grads = jax.grad(lambda p: jnp.mean(model(p, X) ** 2))(grown)["layers"]
    sizes = [size(grad) for grad in grads]
    old = [value for i, value in enumerate(sizes) if str(i) not in new]
    assert 0 < max(sizes[int(i)] for i in new) < 10 * max(old)


@pytest.mark.parametrize("name", ENDS)
def test_loops(name):
    end, (scale, shift) = ENDS[name]
    model, draws = scanned(end), lambda depth: stacked(draw(depth, shift=shift is not None))
    small = draws(2)
    plan = growth.plan(model, model, small, draws(3), X)
    grown = plan.grow(small, key=0)
    before, now = model(small, X), model(grown, X)
    assert jnp.abs(now - before).max() < 1e-12 * jnp.abs(before).max()
    becomes = {leaf.path: leaf.layer.becomes for leaf in plan.leaves}
    assert becomes["layers/scale"] == scale


def test_it_is_explained():
    model = unrolled(ENDS["1 + scale"][0])
    plan = growth.plan(model, model, draw(1), draw(2), X)
    (path,) = [leaf.path for leaf in plan.leaves if leaf.layer.becomes == "minus_one"]
    assert "it starts at −1, which is added to 1" in plan.explain(path)
    assert "new: minus_one" in str(plan)
    assert (plan.grow(draw(1), key=0)["layers"][int(path.split("/")[1])]["scale"] == -1).all()
