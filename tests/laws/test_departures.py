"""What the comparison with a reference forgives, and what it says of a rule that is Optax's."""

import jax
import jax.numpy as jnp
import optax
import pytest

from trainkit import laws

RATE = {"learning_rate": 1e-2}


def message(make, like, hyperparams):
    report = laws.check(make, like=like, hyperparams=hyperparams, laws=["oracle"], examples=5)
    (failure,) = report.failures
    return failure.message


@pytest.mark.parametrize("hyperparams", [RATE, {}])
def test_a_rule_that_is_optaxs_and_not_the_papers_is_told_so(hyperparams):
    words = message(lambda: optax.amsgrad(1e-2), "amsgrad", hyperparams)
    assert "This is Optax's rule, which departs from the paper (the largest uncorrected v" in words
    assert words.endswith("check it with like='optax.amsgrad'")
    found = laws.check(lambda: optax.amsgrad(1e-2), like="optax.amsgrad", hyperparams=hyperparams,
                       laws=["oracle"], examples=5)  # fmt: skip
    found.raise_for_failures()


def test_a_rule_that_is_neither_is_not():
    words = message(lambda: optax.adam(1e-2, b1=0.8), "amsgrad", RATE)
    assert "Optax's rule" not in words


def by_shampoo(scalars, gain=1.0):
    """Gupta's, whose paper says nothing of scalars."""

    def one(g, held):
        if g.ndim == 0:
            return -0.1 * (g if scalars == "plain" else jnp.sign(g)), held
        u, new = g, []
        for axis, h in enumerate(held):
            flat = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
            new.append(h + flat @ flat.T)
            w, v = jnp.linalg.eigh(new[-1])
            root = (v * jnp.maximum(w, 1e-4) ** (-1 / (2 * g.ndim))) @ v.T
            u = jnp.moveaxis(jnp.tensordot(root, u, (1, axis)), 0, axis)
        return -0.1 * gain * u, tuple(new)

    def update(grads, state, params=None):
        leaves, tree = jax.tree.flatten(grads)
        pairs = [one(g, h) for g, h in zip(leaves, state, strict=True)]
        return tree.unflatten([u for u, _ in pairs]), [h for _, h in pairs]

    start = lambda p: tuple(1e-4 * jnp.eye(n, dtype=p.dtype) for n in p.shape)
    return optax.GradientTransformation(lambda p: list(map(start, jax.tree.leaves(p))), update)


@pytest.mark.parametrize("scalars", ["plain", "sign"])
def test_what_a_paper_says_nothing_of_is_free(scalars):
    report = laws.check(lambda: by_shampoo(scalars), like="shampoo", laws=["oracle"], examples=5,
                        hyperparams={"learning_rate": 0.1})  # fmt: skip
    report.raise_for_failures()


def test_the_leaves_beside_it_are_not():
    words = message(lambda: by_shampoo("sign", gain=1.001), "shampoo", {"learning_rate": 0.1})
    assert "shampoo gives" in words


def projected(off):
    """Gradient descent, by way of sums over each leaf; `off` of its largest entry goes wrong."""

    def leaf(g):
        top = jnp.max(jnp.abs(g), initial=0.0)
        return -0.1 * (g + off * top)

    update = lambda g, s, p=None: (jax.tree.map(leaf, g), s)
    return optax.GradientTransformation(lambda p: (), update)


@pytest.mark.parametrize(("off", "ok"), [(5e-7, True), (1e-4, False)])
def test_a_small_entry_has_the_rounding_of_the_largest_where_entries_are_summed(off, ok):
    h = {"inner": optax.sgd(0.1), "slow_step_size": 1.0, "sync_period": 10**6}
    report = laws.check(lambda: projected(off), like="lookahead", hyperparams=h, laws=["oracle"],
                        examples=5)  # fmt: skip
    assert report.ok == ok
