"""Laws that compare two programs tell a rule that magnifies rounding from one that is wrong."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.laws import searching_mutants as searching
from trainkit import laws
from trainkit.laws.subject import Subject
from trainkit.laws.subject.needs import find_needs

TWO_PROGRAMS = ["identity and associativity", "masked and partitioned", "vmap is a loop",
                "scan is a loop", "leaf names", "jit is eager"]  # fmt: skip
PARTED = ["masked and partitioned"]


def test_a_correct_lbfgs_is_the_same_masked_and_partitioned():
    make = lambda: searching.lbfgs(memory=2)
    laws.check(make, laws=PARTED, examples=0).raise_for_failures()


def test_an_lbfgs_whose_memory_leaks_across_masked_leaves_is_not():
    held = {}
    make = lambda: searching.lbfgs(memory=2, fault="memory leaks across masked leaves", seen=held)
    report = laws.check(make, laws=PARTED, examples=0)
    assert [f.law for f in report.failures] == PARTED
    assert "crashed" not in report.failures[0].message


def test_a_leak_is_found_however_sensitive_the_rule_is():
    """A ten-thousandth of one part in the other's scale: float64 tells it from rounding."""
    held = {}

    def make():
        inner = searching.lbfgs(memory=2)

        def update(g, state, params):
            u, state = inner.update(g, state, params)
            size = optax.global_norm(g)
            if isinstance(size, jax.core.Tracer):
                return u, state
            factor, held["size"] = 1 + 1e-4 * held.get("size", 1.0), size
            return jax.tree.map(lambda x: factor * x, u), state

        return optax.GradientTransformation(inner.init, update)

    (failure,) = laws.check(make, laws=PARTED, examples=0).failures
    assert "crashed" not in failure.message


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [searching.lbfgs, optax.scale_by_lbfgs, optax.lbfgs,
     lambda: optax.lbfgs(0.5, linesearch=None), optax.polyak_sgd,
     lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
     lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15))],
    ids=["by hand", "scale_by_lbfgs", "lbfgs", "lbfgs without a search", "polyak_sgd",
         "backtracking", "zoom"],
)  # fmt: skip
def test_searches_and_memories_raise_no_alarm(make):
    laws.check(make, laws=[*TWO_PROGRAMS, "float64"], examples=3).raise_for_failures()


def test_a_partition_gets_the_loss_of_the_whole_tree_and_so_do_its_rules_alone():
    """Polyak's step depends on the loss of the whole: a part that gets its own is another."""
    laws.check(optax.polyak_sgd, laws=PARTED, examples=0).raise_for_failures()


def test_the_loss_that_a_rule_gets_has_the_gradient_that_it_is_given():
    subject = Subject(lambda: optax.scale_by_backtracking_linesearch(15))
    find_needs(subject)
    p = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}
    g = {"a": jnp.array([0.25, 4.0]), "b": jnp.array([[-1.0]])}
    extra = subject.extra(p, g)
    assert set(extra) == {"value", "grad", "value_fn"}
    found = jax.grad(extra["value_fn"])(p)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), found, g))
    assert extra["value"] == extra["value_fn"](p)
