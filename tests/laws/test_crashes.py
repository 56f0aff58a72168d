"""A rule that crashes is one failure: one place in the rule is one cause."""

import jax
import jax.numpy as jnp
import optax
import pytest

from trainkit import laws

SOME = [
    "purity", "jit is eager", "structure", "donation", "scan is a loop", "zero gradients",
    "placements",
]  # fmt: skip


def crashing(f):
    def update(g, state, params=None):
        return jax.tree.map(f, g), state

    return lambda: optax.GradientTransformation(lambda p: optax.EmptyState(), update)


def test_one_crash_is_one_failure_with_what_it_hid():
    report = laws.check(crashing(lambda x: x @ jnp.ones((7, 7))), laws=SOME, examples=0)
    (failure,) = report.failures
    assert failure.law == "purity"
    assert set(failure.hides) == set(SOME) - {"purity"}
    assert "test_crashes.py, line" in failure.message
    assert "Not checked for the same reason: jit is eager" in str(report)
    notes = {r.law: r.note for r in report.results}
    assert notes["structure"] == "it crashed as in 'purity'"


def test_the_lines_of_an_error_that_hold_shapes_are_kept():
    def refuse(x):
        raise ValueError(f"wrong input\n  found: {x.shape}, {x.dtype}\n  expected: (7, 7)")

    (failure,) = laws.check(crashing(refuse), laws=["purity"]).failures
    assert "wrong input found: (3,), float32 expected: (7, 7)" in failure.message


def test_a_crash_on_some_trees_is_one_failure():
    """`is_leaf` takes a tuple of the parameters' tree for a tuple of results."""

    def update(g, state, params=None):
        pairs = jax.tree.map(lambda x: (x, x), g)
        pairs = jax.tree.leaves(pairs, is_leaf=lambda x: isinstance(x, tuple))
        return jax.tree.unflatten(jax.tree.structure(g), [x for x, *_ in pairs]), state

    make = lambda: optax.GradientTransformation(lambda p: optax.EmptyState(), update)
    report = laws.check(make, laws=["structure", "leaf names", "odd"], examples=0)
    (failure,) = report.failures
    assert failure.law == "structure"
    assert set(failure.hides) == {"leaf names", "odd"}


def test_a_crash_in_the_middle_of_a_run_fails_by_itself():
    def update(g, state, params=None):
        leaves = jax.tree.leaves(g, is_leaf=lambda x: isinstance(x, tuple))
        return jax.tree.unflatten(jax.tree.structure(g), leaves), state

    make = lambda: optax.GradientTransformation(lambda p: optax.EmptyState(), update)
    (failure,) = laws.check(make, laws=["odd"], examples=0).failures
    with pytest.raises(ValueError, match="Too few leaves"):
        exec(failure.reproducer, {"__name__": "__main__"})


def test_two_places_are_two_failures():
    def by_dtype(x):
        if x.dtype == jnp.bfloat16:
            raise TypeError("no bfloat16")
        if x.dtype == jnp.float16:
            raise TypeError("no float16")
        return x

    report = laws.check(crashing(by_dtype), laws=["no promotion", "bfloat16", "float16"])
    assert [(f.law, f.hides) for f in report.failures] == [
        ("no promotion", ("bfloat16",)), ("float16", ())]  # fmt: skip
