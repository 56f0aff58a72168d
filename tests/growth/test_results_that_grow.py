"""Results with more entries, over which the model itself sums: more actions of a dueling head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(5, 4))


def draw(actions, hidden=6):
    rng = np.random.default_rng(actions)
    shapes = {"in": (4, hidden), "gain": (hidden, actions), "bias": (actions,), "v": (hidden, 1)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def dueling(p, x):
    """q = v + a − mean(a): new advantages that are the mean of the old ones leave the mean."""
    h = jnp.tanh(x @ p["in"])
    a = h @ p["gain"] + p["bias"]
    return h @ p["v"] + a - jnp.mean(a, -1, keepdims=True)


@pytest.mark.parametrize("hidden", [6, 9, 12])
@pytest.mark.parametrize("actions", [4, 5, 6])
def test_more_actions_of_a_dueling_head(actions, hidden):
    small = draw(3)
    grown = growth.plan(dueling, dueling, small, draw(actions, hidden), X).grow(small, key=0)
    np.testing.assert_allclose(dueling(grown, X)[:, :3], dueling(small, X), rtol=1e-12, atol=1e-13)
    wide = np.linalg.norm(grown["gain"]) if hidden == 6 else 0
    assert not wide or np.allclose(grown["gain"][:, 3:], small["gain"].mean(1, keepdims=True))


@pytest.mark.parametrize(
    "last",
    [
        lambda p, a: jax.nn.softmax(a),
        lambda p, a: a - jnp.max(a, -1, keepdims=True) * jnp.sum(a),
        lambda p, a: jnp.tanh(a) - jnp.mean(jnp.tanh(a), -1, keepdims=True),
    ],
)
def test_other_sums_are_refused_and_say_so(last):
    fn = lambda p, x: last(p, jnp.tanh(x @ p["in"]) @ p["gain"])
    drop = lambda p: {name: p[name] for name in ("in", "gain")}
    with pytest.raises(growth.GrowthError, match="the model sums over that axis"):
        growth.plan(fn, fn, drop(draw(3)), drop(draw(5)), X)
