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


def of_atoms(actions, atoms=7, hidden=6):
    rng = np.random.default_rng(actions)
    shapes = {"in": (4, hidden), "gain": (hidden, actions * atoms), "bias": (actions * atoms,)}
    shapes |= {"v": (hidden, atoms), "c": (atoms,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def distributional(actions, atoms_first=False):
    """A distribution over atoms for each action: one matrix has the advantages of all of them."""

    def fn(p, x):
        h = jnp.tanh(x @ p["in"])
        a, v = h @ p["gain"] + p["bias"], h @ p["v"] + p["c"]
        atoms = v.shape[-1]
        shape = (5, atoms, actions) if atoms_first else (5, actions, atoms)
        a, d = a.reshape(shape), 2 if atoms_first else 1
        logits = jnp.expand_dims(v, d) + (a - jnp.mean(a, d, keepdims=True))
        return jnp.moveaxis(jax.nn.softmax(logits, 3 - d), d, 1)

    return fn


@pytest.mark.parametrize("hidden", [6, 9])
@pytest.mark.parametrize("actions", [4, 5, 6])
@pytest.mark.parametrize("atoms_first", [False, True])
def test_more_actions_with_a_distribution_each(actions, hidden, atoms_first):
    """New advantages of every atom are the mean of those that the old actions have of it."""
    small, old, new = of_atoms(3), *(distributional(n, atoms_first) for n in (3, actions))
    plan = growth.plan(old, new, small, of_atoms(actions, 7, hidden), X)
    grown = plan.grow(small, key=0)
    np.testing.assert_allclose(new(grown, X)[:, :3], old(small, X), rtol=1e-12, atol=1e-13)
    apart = (7, -1) if atoms_first else (-1, 7)
    rows = [p["bias"].reshape(apart) for p in (small, grown)]
    before, after = (r.T if atoms_first else r for r in rows)
    np.testing.assert_allclose(after[3:], np.tile(before.mean(0), (actions - 3, 1)), rtol=1e-14)
    assert growth.Plan.from_json(plan.to_json()) == plan


def test_more_atoms_are_refused():
    """The probabilities of all atoms sum to 1, so that new ones take some of it."""
    fn = distributional(3)
    with pytest.raises(growth.GrowthError, match="result grows"):
        growth.plan(fn, fn, of_atoms(3, 7), of_atoms(3, 14), X)


def test_a_mean_over_actions_and_atoms_is_another_one():
    """It is taken of a merged axis: new actions would have to hold the mean over all atoms."""

    def fn(p, x):
        a = jnp.tanh(x @ p["in"]) @ p["gain"] + p["bias"]
        a = a - jnp.mean(a, -1, keepdims=True)
        return jax.nn.softmax(a.reshape(5, -1, 7), -1)

    drop = lambda p: {name: p[name] for name in ("in", "gain", "bias")}
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, drop(of_atoms(3)), drop(of_atoms(5)), X)


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
