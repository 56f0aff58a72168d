"""Experts that grow to any number, with more copies of those that are used more; float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import growth
from trainkit.growth.plan.groups import counts

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))


def switch(p, x):
    """Each token goes to one expert, whose gate is a sigmoid."""
    score, which = jax.lax.top_k(x @ p["router"] + p["shift"], 1)
    h = jax.nn.gelu(jnp.einsum("td,tdf->tf", x, p["up"][which[:, 0]]) + p["b"][which[:, 0]])
    return jnp.einsum("tf,tfo->to", h, p["down"][which[:, 0]]) * jax.nn.sigmoid(score)


def soft(p, x):
    """Every token goes to all experts."""
    gates = jax.nn.softmax(x @ p["router"] + p["shift"])
    h = jax.nn.gelu(jnp.einsum("td,edf->tef", x, p["up"]) + p["b"])
    return jnp.einsum("tef,efd,te->td", h, p["down"], gates)


def draw(count):
    shapes = {
        "router": (4, count), "shift": (count,), "up": (count, 4, 5), "b": (count, 5),
        "down": (count, 5, 3),
    }  # fmt: skip
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


SMALL = draw(3)
LOAD = np.bincount(np.argmax(X @ SMALL["router"] + SMALL["shift"], -1), minlength=3)


def slope():
    return jax.grad(lambda p: jnp.sum(jnp.sin(switch(p, X))))(jax.tree.map(jnp.asarray, SMALL))


@pytest.mark.parametrize("total", [3, 4, 5, 6, 7, 11])
def test_the_most_used_copy_is_used_as_little_as_possible(total):
    use = np.array([0.7, 0.05, 0.25])
    found = counts(use, total)
    assert sum(found) == total
    ways = [(a, b, total - a - b) for a in range(1, total) for b in range(1, total - a)]
    best = min(max(use / np.array(way)) for way in ways if min(way) > 0)
    assert max(use / np.array(found)) == pytest.approx(best)


@pytest.mark.parametrize("total", [4, 5, 6, 8])
@pytest.mark.parametrize("use", [lambda: LOAD, slope], ids=["load", "utility"])
def test_every_copy_is_exact_and_one_of_them_is_chosen(total, use):
    use = use()
    plan = growth.Plan.of_experts(SMALL, draw(total), use=use)
    number = plan.grown_axes[0].layout[1:]
    assert sum(number) == total
    assert growth.Plan.from_json(plan.to_json()) == plan
    big = plan.grow(SMALL, how="even")
    for name, axis in (("router", 1), ("shift", 0), ("up", 0), ("b", 0), ("down", 0)):
        assert (big[name] == np.repeat(SMALL[name], number, axis)).all()
    assert jnp.abs(switch(big, X) - switch(SMALL, X)).max() < 1e-12


def test_the_choice_follows_load_and_utility():
    grads = slope()
    by_load = growth.Plan.of_experts(SMALL, draw(8), use=LOAD).grown_axes[0].layout
    assert by_load == ("copies", *counts(LOAD, 8))
    assert by_load[1 + np.argmax(LOAD)] == max(by_load[1:])
    utility = sum(
        np.square(grads[name]).sum(tuple(d for d in range(grads[name].ndim) if d != axis))
        for name, axis in (("router", 1), ("shift", 0), ("up", 0), ("b", 0), ("down", 0))
    )
    by_utility = growth.Plan.of_experts(SMALL, draw(8), use=grads)
    assert by_utility.grown_axes[0].layout == ("copies", *counts(utility, 8))
    one = growth.Plan.of_experts(SMALL, draw(5), use=[0, 0, 1])
    assert one.grown_axes[0].layout == ("copies", 1, 1, 3)
    assert "copies 1 1 3" in str(one)
    assert "as many neighbouring copies" in one.explain("up")
    assert one.realise(how="even").proof == "assumed"


def test_moments_are_divided_over_the_copies():
    plan = growth.Plan.of_experts(SMALL, draw(5), use=[0, 0, 1])
    growth_map, tx = plan.realise(how="even"), optax.sgd(1e-2, momentum=0.9)
    state = tx.update(slope(), tx.init(SMALL), SMALL)[1]
    grown = growth_map.opt_state(tx, state, SMALL)
    moved, old = grown[0].trace["up"], state[0].trace["up"]
    np.testing.assert_allclose(moved[:2], old[:2], atol=1e-15)
    np.testing.assert_allclose(moved[2:] * 3, np.repeat(old[2:], 3, 0), atol=1e-15)
    assert not growth_map.leaves["up"].exact_gradient


def test_the_certificate_measures_what_a_softmax_over_all_changes():
    plan = growth.Plan.of_experts(SMALL, draw(5), use=[0, 0, 1])
    found = plan.realise(how="even").certificate(soft, soft, SMALL, X, tx=optax.sgd(1e-2))
    assert found.forward_error["float64"] > 1e-3


def test_wrong_use():
    big = draw(5)
    for use in ([1, 2], [1.0, -1.0, 1.0], [np.nan, 1, 1], 3.0, {"up": 1.0}):
        with pytest.raises(growth.GrowthError, match="must be 3 finite numbers"):
            growth.Plan.of_experts(SMALL, big, use=use)
    with pytest.raises(growth.GrowthError, match="gradient of b has shape"):
        growth.Plan.of_experts(SMALL, big, use=draw(5))
    with pytest.raises(ValueError, match="last= or use="):
        growth.Plan.of_experts(SMALL, big, use=LOAD, last="down")
    wider = {**big, "up": np.zeros((5, 4, 6))}
    with pytest.raises(growth.GrowthError, match="exactly one axis may grow here, but"):
        growth.Plan.of_experts(SMALL, wider, use=LOAD)
