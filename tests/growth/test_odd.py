"""Small constructions with one trap each: planned exactly or refused, never wrong."""

import jax
import numpy as np
import pytest

from tests.growth import checking, odd
from trainkit import growth

VARIANTS = [
    pytest.param(name, variant, marks=pytest.mark.slow)
    for name, model in odd.MODELS.items()
    for variant in model.grown
    if variant != "refused"
]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_outputs_and_gradients_in_float64(name, variant, x64):
    checking.check_variant(checking.small("odd", name, "float64"), variant, tolerance=1e-12)


@pytest.mark.parametrize("name", [n for n, m in odd.MODELS.items() if "refused" in m.grown])
def test_refused_before_anything_runs(name):
    model = odd.MODELS[name]
    (small_fn, small), (big_fn, big) = (
        model.build(**{**model.base, **more}) for more in ({}, model.grown["refused"])
    )
    inputs = [jax.ShapeDtypeStruct(np.shape(x), "float32") for x in model.inputs]
    with pytest.raises(growth.GrowthError) as caught:
        growth.plan(small_fn, big_fn, small, big, *inputs)
    assert caught.value.params
    assert caught.value.hint
