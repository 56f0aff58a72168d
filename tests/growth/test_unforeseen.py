"""Architectures that the rules were not written with, and those that must be refused."""

import jax
import pytest

from tests.growth import checking, unforeseen
from trainkit import growth

ALWAYS = [("parallel", "all"), ("mamba", "f")]
VARIANTS = [
    pytest.param(name, variant, marks=() if (name, variant) in ALWAYS else pytest.mark.slow)
    for name, model in unforeseen.MODELS.items()
    for variant in model.grown
]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_outputs_and_gradients_in_float64(name, variant, x64):
    checking.check_variant(checking.small("unforeseen", name, "float64"), variant, tolerance=1e-12)


@pytest.mark.parametrize("name", list(unforeseen.REFUSED))
def test_refused_with_a_reason(name):
    model, word = unforeseen.REFUSED[name]
    small_fn, small = model.build(**model.base)
    (sizes,) = model.grown.values()
    big_fn, big = model.build(**{**model.base, **sizes})
    inputs = [
        jax.ShapeDtypeStruct(x.shape, "int32" if x.dtype.kind == "i" else "float32")
        for x in model.inputs
    ]
    with pytest.raises(growth.GrowthError) as caught:
        growth.plan(small_fn, big_fn, small, big, *inputs)
    error = caught.value
    assert word in str(error)
    assert error.params, "the error names no parameter"
    assert error.primitive
    assert "unforeseen.py" in (error.source or ""), error.source
    assert error.hint
