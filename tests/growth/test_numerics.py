"""Every model of the zoo at every size that may grow: exact in outputs and gradients, or refused.

What growth proves of all of them stands in `tests/growth/golden`; here it is computed. The default
run takes a few that it always takes and a sample of the others.
"""

import numpy as np
import pytest

from tests.growth import checking, zoo
from tests.growth.checking import small
from tests.growth.zoo.building import as_dtype
from trainkit import growth

ALWAYS = {
    ("mlp relu", "all"),
    ("resnet", "wide"),
    ("gpt merged", "all"),
    ("plain", "odd width"),
    ("parallel", "all"),
    ("mamba", "f"),
    ("softmax, top_k, renormalised; weights gathered", "all"),
    ("capacity, first choices first", "experts"),
    ("retention in chunks", "all x2"),
}
EXACT = [
    pytest.param(name, variant, marks=() if (name, variant) in ALWAYS else pytest.mark.slow)
    for name, model in zoo.models(exact=True).items()
    for variant in model.exact
]


@pytest.mark.parametrize(("name", "variant"), EXACT)
def test_outputs_and_gradients_in_float64(name, variant, x64):
    # 1e-12: exact arithmetic but for the rounding of a few hundred operations. A stream behind a
    # LayerNorm that grows to no multiple has gradients that are said to be a best guess.
    guesses = zoo.REGISTRY[name].table == "published" and "x1.5" in variant
    checking.check_variant(small(name, "float64"), variant, tolerance=1e-12, guesses=guesses)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "llama rotary" else pytest.mark.slow)
        for name in zoo.models("zoo")
    ],
)
def test_outputs_in_float32(name):
    variant = list(zoo.REGISTRY[name].grown)[-1]  # all axes together
    checking.check_variant(small(name, "float32"), variant, tolerance=5e-6)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (name, variant)
        for name, model in zoo.models(exact=False).items()
        for variant in model.refused
    ],
)
def test_refused_with_a_reason(name, variant, x64):
    model = zoo.REGISTRY[name]
    (small_fn, before), (big_fn, after) = model.sides(variant)
    double = as_dtype([before, after, *map(np.asarray, model.inputs)], np.float64)
    with pytest.raises(growth.GrowthError) as caught:
        growth.plan(small_fn, big_fn, *double)
    error = caught.value
    assert model.refused[variant] in str(error)
    assert error.params, "the error names no parameter"
    assert error.axis, error
    assert error.primitive, error
    assert "tests/growth/zoo/" in (error.source or ""), error.source
    assert error.hint, error
