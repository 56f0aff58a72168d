"""The law of donation finds shared buffers, and leaves the rule as it was."""

import jax
import jax.numpy as jnp
import optax
import pytest

from trainkit import laws
from trainkit.laws.protocol import ordinary


def owner(key_or_table):
    """A rule whose init hands out an array of its own."""

    def update(g, state, params=None):
        count, held = state
        return jax.tree.map(lambda x: -0.1 * x, g), (count + 1, held)

    return optax.GradientTransformation(lambda p: (jnp.zeros([], jnp.int32), key_or_table), update)


@pytest.mark.parametrize("held", [lambda: jax.random.key(3), lambda: jnp.arange(4.0)])
def test_a_rule_that_hands_out_its_own_buffer_is_found_and_survives(held):
    mine = held()
    report = laws.check(owner(mine), laws=["donation", "resume", "zero gradients"])
    (failure,) = report.failures
    assert failure.law == "donation"
    assert "of the rule's own" in failure.message
    assert not mine.is_deleted()


def test_a_rule_that_makes_its_arrays_anew_may_be_donated():
    make = lambda: optax.GradientTransformation(
        lambda p: (jnp.zeros([], jnp.int32), jax.random.key(3)), owner(None).update
    )
    laws.check(make, laws=["donation"]).raise_for_failures()


def test_the_program_of_such_a_failure_fails_by_itself():
    make = lambda: optax.contrib.dpsgd(1e-2, 1.0, 0.0, 0)
    code = laws.check(make, claims=["per example"], laws=["donation"]).failures[0].reproducer
    with ordinary(), pytest.raises(Exception, match="deleted"):
        exec(compile(code, "reproducer", "exec"), {"__name__": "reproducer"})
