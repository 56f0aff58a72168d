"""The public generators."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.laws import strategies


@settings(max_examples=20, deadline=None)
@given(strategies.problems(dtypes=("float32", "bfloat16"), steps=2))
def test_a_problem_has_one_structure_and_one_dtype(problem):
    params, grads = problem
    for g in grads:
        assert jax.tree.structure(g) == jax.tree.structure(params)
        assert [x.shape for x in jax.tree.leaves(g)] == [x.shape for x in jax.tree.leaves(params)]
    assert len({x.dtype for x in jax.tree.leaves((params, grads))}) <= 1


@settings(max_examples=20, deadline=None)
@given(strategies.arrays((3,), extreme=True, finite=False))
def test_extreme_arrays_have_their_dtype(x):
    assert x.dtype == jnp.float32
    assert x.shape == (3,)


@settings(max_examples=30, deadline=None)
@given(strategies.counts())
def test_counts_are_int32(count):
    assert 0 <= count <= np.iinfo(np.int32).max


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_extra_arguments_match_their_problem(data):
    params, grads = data.draw(strategies.twins())
    extra = data.draw(strategies.extra_args(params, grads[0]))
    assert float(extra["value"]) == float(extra["value_fn"](params))


def test_without_hypothesis_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"trainkit\[testing\]"):
        strategies.counts()
