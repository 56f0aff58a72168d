"""The law of guarding, on guards that give up, forget, or look at too little or too much."""

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit.transforms as tt
from tests.laws.test_reproducers import runs_and_fails
from trainkit import laws

tmap = jax.tree.map


def check(make, claim=True):
    return laws.check(make, claims={"guard": claim}, laws=["guard"], examples=0)


def guard(limit=None, inner=None, fault=""):
    """Ignores gradients that are not finite, up to `limit` in a row."""
    inner = inner or optax.adam(0.1)

    def update(g, s, p=None):
        row, held = s
        leaves = jax.tree.leaves(g)[:1] if fault == "first leaf" else jax.tree.leaves(g)
        if fault == "NaN only":
            finite = [~jnp.isnan(x).any() for x in leaves]
        elif fault == "first entry":
            finite = [jnp.isfinite(x.ravel()[0]) for x in leaves]
        else:
            finite = [jnp.isfinite(x).all() for x in leaves]
        ok = jnp.stack(finite).all()
        row = jnp.where(ok, row if fault == "never forgets" else 0, row + 1)
        ok |= False if limit is None else row > limit - (fault == "one too few")
        u, new = inner.update(g, held, p)
        keep = lambda a, b: tmap(lambda x, y: jnp.where(ok, x, y), a, b)
        if fault != "state moves":
            new = keep(new, held)
        return keep(u, tmap(jnp.zeros_like, u)), (row, new)

    return optax.GradientTransformation(lambda p: (jnp.zeros([], int), inner.init(p)), update)


RIGHT = {
    "by hand": (guard, True),
    "by hand with a limit": (lambda: guard(3), 3),
    "apply_if_finite": (lambda: optax.apply_if_finite(optax.adam(0.1), 5), 5),
    "skip_nonfinite": (lambda: tt.skip_nonfinite(tt.adam(0.1)), True),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_guard_holds(name):
    check(*RIGHT[name]).raise_for_failures()


@pytest.mark.parametrize(
    ("fault", "limit", "claim"),
    [
        ("first leaf", None, True),
        ("NaN only", None, True),
        ("first entry", None, True),
        ("state moves", None, True),
        ("never forgets", 3, 3),
        ("one too few", 3, 3),
        ("gives up", 3, True),
        ("gives up late", 4, 3),
    ],
)
def test_a_fault_of_a_guard_is_found(fault, limit, claim):
    (failure,) = check(lambda: guard(limit, fault=fault), claim).failures
    runs_and_fails(failure)
