"""Layers that read each other's results in any order: growth is exact or refused, never wrong.

Two programs may have the same equations, one after another, and still not read the same values.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(3, 5))

# What a layer makes of a value and another one that it reads.
LAYERS = {
    "relu": lambda p, x, other: jax.nn.relu(x @ p["w"]),
    "residual": lambda p, x, other: x + jnp.tanh(x @ p["w"]) @ p["v"],
    "joined": lambda p, x, other: jax.nn.relu(jnp.concatenate([x, other], -1) @ p["wide"]),
    "joined behind": lambda p, x, other: jax.nn.relu(jnp.concatenate([other, x], -1) @ p["wide"]),
    "scaled": lambda p, x, other: x * (other @ p["w"] + p["b"]) + jnp.tanh(other @ p["v"]),
    "gated": lambda p, x, other: x + p["gate"] * jnp.tanh(other @ p["w"]),
    "branch": lambda p, x, other: jnp.tanh(other @ p["w"]),
}
USES = {
    "relu": ("w",),
    "residual": ("w", "v"),
    "joined": ("wide",),
    "joined behind": ("wide",),
    "scaled": ("w", "b", "v"),
    "gated": ("w", "gate"),
    "branch": ("w",),
}


def net(kind, reads, ends):
    """A chain of layers. Each also reads `seen[reads]`, and the results read `seen[end]`."""

    def fn(p, x):
        seen = [x @ p["in"]]
        for layer in p["layers"]:
            seen.append(LAYERS[kind](layer, seen[-1], seen[max(reads, -len(seen))]))
        out = seen[-1] @ p["out"]
        for end in ends:
            out = out + seen[end] @ p["out"]
        return out if kind != "branch" else out + jnp.concatenate(seen, -1) @ p["all"]

    return fn


def draw(kind, depth, width):
    rng = np.random.default_rng(depth)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2)
    n = width
    shapes = {"w": (n, n), "v": (n, n), "wide": (2 * n, n), "b": (n,), "gate": ()}
    layers = [{name: f(*shapes[name]) for name in USES[kind]} for _ in range(depth)]
    more = {"all": f(n * (depth + 1), 2)} if kind == "branch" else {}
    return {"in": f(5, n), "layers": layers, "out": f(n, 2), **more}


@pytest.mark.parametrize("kind", LAYERS)
def test_exact_or_refused(kind):
    found = {}
    ends = ((), (0,), (1,), (2,), (-2,), (2, -2))
    for case in itertools.product((-1, -2, 0), ends, ((2, 4), (3, 4), (2, 8))):
        reads, end, (depth, width) = case
        fn, small = net(kind, reads, end), draw(kind, depth, 4)
        try:
            plan = growth.plan(fn, fn, small, draw(kind, depth + 1, width), X)
        except growth.GrowthError:
            found[case] = "refused"
            continue
        old, new = fn(small, X), fn(plan.grow(small, key=0), X)
        error = jnp.abs(new - old).max() / jnp.abs(old).max()
        found[case] = "exact" if error < 1e-12 else f"wrong by {error:.2g}"
    wrong = {case: how for case, how in found.items() if how.startswith("wrong")}
    assert not wrong
    assert list(found.values()).count("exact") >= 10, found
