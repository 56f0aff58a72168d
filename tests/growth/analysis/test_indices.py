"""Mixtures of experts through `plan`: what is chosen, with its copies, stays what it was."""

import jax
import numpy as np
import pytest

from tests.growth.checking import small

pytestmark = pytest.mark.usefixtures("x64")


def test_what_orders_experts_gets_the_same_noise_for_all_copies():
    """Noise over a router's inputs must not break the ties between an expert's copies."""
    it = small("capacity, first choices first", "float64")
    plan = it.plan("all")
    grown = plan.grow(it.params, key=jax.random.key(0), how="noise")
    router = np.asarray(grown["router"])
    np.testing.assert_array_equal(router[:, ::2], router[:, 1::2])
    assert (router[::2] != router[1::2]).all()  # over the copies of its inputs there is noise
    assert (np.asarray(grown["down"])[::2] != np.asarray(grown["down"])[1::2]).any()


def test_weights_that_are_picked_are_read_as_weights():
    it = small("softmax, top_k, renormalised; weights gathered", "float64")
    plan = it.plan("all")
    kinds = {name: leaf.kind for name, leaf in plan.mup().leaves.items()}
    assert kinds["up"] == kinds["down"] == "hidden"
    assert "queries" not in str(plan.mup())
