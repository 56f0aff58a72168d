"""The width rule that keeps scales, not the function."""

import jax.numpy as jnp
import numpy as np

from tests.growth import zoo
from trainkit import growth

MODEL = zoo.REGISTRY["homogeneous layers"]
net, _ = MODEL.at()


def draw(n, m):
    return MODEL.params(dtype=jnp.float32, n=n, m=m)


def test_weights_are_those_of_the_rule():
    small, big = draw(4, 6), draw(12, 12)
    plan = growth.plan(net, net, small, big, jnp.ones((5, 3)))
    grown = plan.grow(small, how="rms")
    first, second = np.arange(12) // 3, np.arange(12) // 2
    np.testing.assert_array_equal(grown["in"], small["in"][:, first])
    np.testing.assert_array_equal(grown["bias"], small["bias"][first])
    # One product in float32.
    wanted = small["mid"][first][:, second] * np.sqrt(4 / 12)
    np.testing.assert_allclose(grown["mid"], wanted, rtol=1e-6)
    np.testing.assert_allclose(grown["out"], small["out"][second] * np.sqrt(6 / 12), rtol=1e-6)


def test_the_function_changes_and_the_plan_says_so():
    small, big = draw(4, 6), draw(8, 12)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)
    plan = growth.plan(net, net, small, big, x)
    # √2 for each layer that reads two copies of every unit, through positively homogeneous ones.
    jumped = net(plan.grow(small, how="rms"), x)
    np.testing.assert_allclose(jumped, 2.0 * net(small, x), rtol=1e-5, atol=1e-5)
    assert not any(leaf.exact_gradient for leaf in plan.realise(None, "rms").leaves.values())
