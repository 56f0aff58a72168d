"""Structured pruning by the axes of a plan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth import zoo
from trainkit import growth

MODEL = zoo.REGISTRY["normalised stream"]
model, _ = MODEL.at()


def draw(d, hidden, seed=0, dtype=np.float32):
    return MODEL.params(seed, dtype, d=d, hidden=hidden)


def planned(small, big):
    return growth.plan(model, model, small, big, jax.ShapeDtypeStruct((5, 3), small["up"].dtype))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", ["even", "uneven", "noise"])
def test_merging_undoes_a_growth(how):
    small, big = draw(4, 6, dtype=np.float64), draw(8, 15, dtype=np.float64)
    plan = planned(small, big)
    grown = plan.grow(small, key=jax.random.key(0), how=how)
    back = plan.shrink(grown, how="merge")
    for name in small:  # sums of a few products in float64
        np.testing.assert_allclose(back[name], small[name], rtol=1e-12, atol=1e-13)


def test_dead_units_go_first_and_nothing_is_lost():
    """Units that nothing reads are dropped by every score, and the outputs stay the same."""
    small, big = draw(4, 6), draw(4, 8)
    dead = np.array([2, 5])
    for name, where in (("up", np.s_[:, dead]), ("b", np.s_[dead]), ("down", np.s_[dead])):
        big[name] = big[name].at[where].set(0.0)
    plan = planned(small, big)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(5, 3)), jnp.float32)
    slopes = jax.grad(lambda p: jnp.sum(jnp.square(model(p, x))))(big)
    seen = growth.activations(plan, model, model, big, x)
    for how in (
        {"score": "magnitude"},
        {"score": "gradient", "grads": slopes},
        {"score": "activation", "activations": seen},
        {"score": seen},
    ):
        chosen = growth.prune(plan, big, **how)
        np.testing.assert_array_equal(chosen.kept[0], [0, 1, 3, 4, 6, 7])
        assert chosen.lost == (0.0,)
        assert chosen.change(model, model, big, x) < 1e-6  # float32
        assert chosen.parameters == (sum(w.size for w in big.values()), 82)
    assert "8 → 6" in str(chosen)


def test_scores_are_those_of_the_papers():
    small, big = draw(4, 3), draw(4, 6)
    plan = planned(small, big)
    slopes = draw(4, 6, seed=1)
    found = growth.prune(plan, big, score="gradient", grads=slopes).scores[0]
    wanted = sum(
        np.sum(np.asarray(big[n]) * np.asarray(slopes[n]), axis=axis)
        for n, axis in (("up", 0), ("b", ()), ("down", 1))
    )
    np.testing.assert_allclose(found, np.square(wanted), rtol=1e-5)
    found = growth.prune(plan, big).scores[0]
    wanted = sum(
        np.square(big[n]).mean(axis) / np.square(big[n]).mean()
        for n, axis in (("up", 0), ("b", ()), ("down", 1))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_activations_are_measured_where_they_are_read():
    small, big = draw(4, 3), draw(8, 6)
    plan = planned(small, big)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(5, 3)), jnp.float32)
    found = growth.activations(plan, model, model, big, x)
    sizes = {i: axis.big for i, axis in enumerate(plan.grown_axes)}
    hidden = next(i for i, n in sizes.items() if n == 6)
    h = x @ big["embed"] + big["bias"]
    y = h / np.sqrt(np.mean(np.square(h), -1, keepdims=True) + 1e-3) * (1.0 + big["norm"])
    read = np.square(jax.nn.gelu(y @ big["up"] + big["b"])).mean(0)
    np.testing.assert_allclose(found[hidden], read / read.mean(), rtol=1e-4)
    end = h + jax.nn.gelu(y @ big["up"] + big["b"]) @ big["down"]
    stream = [np.square(v).mean(0) for v in (y, end)]
    wanted = sum(s / s.mean() for s in stream)
    np.testing.assert_allclose(found[1 - hidden], wanted, rtol=1e-4)


def test_coupled_leaves_lose_the_same_units():
    small, big = draw(4, 6), draw(8, 6)
    plan = planned(small, big)
    chosen = growth.prune(plan, big)
    kept = chosen.kept[0]
    back = chosen.apply(big)
    np.testing.assert_array_equal(back["embed"], big["embed"][:, kept])
    np.testing.assert_array_equal(back["norm"], big["norm"][kept])
    np.testing.assert_array_equal(back["down"], big["down"][:, kept])
    np.testing.assert_array_equal(back["head"], big["head"][kept])


def test_errors():
    small, big = draw(4, 3), draw(4, 6)
    plan = planned(small, big)
    with pytest.raises(ValueError, match="needs grads"):
        plan.shrink(big, score="gradient")
    with pytest.raises(ValueError, match="needs activations"):
        plan.shrink(big, score="activation")
    with pytest.raises(ValueError, match="magnitude, gradient, activation"):
        plan.shrink(big, score="random")
    with pytest.raises(growth.GrowthError, match=r"up has shape \(4, 3\).*\n.*parameters: up"):
        plan.shrink({**big, "up": small["up"]})
    with pytest.raises(growth.GrowthError, match=r"scores of shape \(6,\)"):
        plan.shrink(big, score={0: np.ones(3)})
    with pytest.raises(ValueError, match="'prune' or 'merge'"):
        plan.shrink(big, how="drop")


def fed(plan, small, seed=3, shape=(5, 3)):
    x = jnp.asarray(np.random.default_rng(seed).normal(size=shape), small["in"].dtype)
    return x, plan.new_inputs(x, key=1)[0]


@pytest.mark.usefixtures("x64")
def test_the_change_of_a_model_that_has_new_inputs():
    net = lambda p, x: jnp.tanh(x @ p["in"] + p["b"]) @ p["out"]
    rng = np.random.default_rng(0)
    make = lambda f, n: {
        name: jnp.asarray(rng.normal(size=s))
        for name, s in (("in", (f, n)), ("b", (n,)), ("out", (n, 2)))
    }
    small = make(3, 4)
    wide = growth.NewInputs(jnp.ones((5, 5)), places={("0", -1): (0, 2, 3)})
    plan = growth.plan(net, net, small, make(5, 8), jnp.ones((5, 3)), inputs=wide)
    big = plan.grow(small, key=0)
    x, new = fed(plan, small)
    merged = growth.prune(plan, big, how="merge")
    assert merged.change(net, net, big, new) < 1e-14  # copies are merged, new features read with 0
    feature = next(i for i, a in enumerate(plan.grown_axes) if a.big == 5)
    unit = 1 - feature
    chosen = growth.prune(plan, big, score={feature: [9, 1, 8, 2, 7], unit: np.arange(8)})
    np.testing.assert_array_equal(chosen.kept[feature], [0, 2, 4])
    back = chosen.apply(big)
    wanted = np.abs(net(back, new[:, [0, 2, 4]]) - net(big, new)).max()
    wanted /= np.abs(net(big, new)).max()
    np.testing.assert_allclose(chosen.change(net, net, big, new), wanted, rtol=1e-12)
    with pytest.raises(growth.GrowthError, match=r"\(5, 3\); the plan's big model takes \(5, 5\)"):
        chosen.change(net, net, big, x)


@pytest.mark.usefixtures("x64")
def test_the_change_of_a_model_that_has_new_symbols():
    tied = lambda p, t: jnp.tanh(p["table"][t]) @ p["table"].T
    make = lambda n: {"table": jnp.asarray(np.random.default_rng(n).normal(size=(n, 3)))}
    places, tokens = (6, 0, 3, 4, 1), jnp.asarray([[0, 1, 2], [3, 4, 1]])
    named = growth.NewInputs(symbols={"0": places}, places={("result", -1): places})
    for inputs in (named, None):
        plan = growth.plan(tied, tied, make(5), make(7), tokens, inputs=inputs)
        big = plan.grow(make(5), key=0)
        new = tokens if inputs is None else plan.new_inputs(tokens)[0]
        for how in ("merge", "prune"):
            score = [[5, 5, 0, 5, 5, 0, 5], [5, 5, 5, 5, 5, 0, 0]][inputs is None]
            chosen = growth.prune(plan, big, how=how, score={0: np.array(score)})
            assert chosen.change(tied, tied, big, new) == 0.0  # rows are only moved
    plan = growth.plan(tied, tied, make(5), make(7), tokens, inputs=named)
    with pytest.raises(growth.GrowthError, match="input 0 has the symbol 2, whose row is removed"):
        growth.prune(plan, big, score={0: np.array(score[::-1])}, how="merge").change(
            tied, tied, big, tokens
        )
