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
    ("layers named by numbers", "wider too, identity"),
    ("layers named by words", "wider too, identity"),
    ("layers named by dots", "deeper, identity"),
    ("one relu layer", "deeper, identity"),
    ("convolution layers", "deeper, identity"),
    ("linen, convolutional lstm", "(8,)"),
    ("linen, weight norm", "(6, 5)"),
    ("linen, standardize", "(7,)"),
    ("lookup, rows", "(9, 4)"),
    ("lookup, equinox", "(7, 6)"),
    ("scanned", "odd width"),
    ("row means, fast", "11"),
    ("row means, library", "6"),
    ("coupling layers", "wider too, identity"),
    ("experts in a list", "experts too, identity"),
    ("named blocks", "wider too, identity"),
}
EXACT = [
    pytest.param(name, case, marks=() if (name, case) in ALWAYS else pytest.mark.slow)
    for name, model in zoo.models(exact=True).items()
    for case in model.exact
]


@pytest.mark.parametrize(("name", "case"), EXACT)
@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")
def test_outputs_and_gradients_in_float64(name, case, x64):
    # 1e-12: exact arithmetic but for the rounding of a few hundred operations.
    guesses = case in zoo.REGISTRY[name].guessed
    checking.check_case(small(name, "float64"), case, tolerance=1e-12, guesses=guesses)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "llama rotary" else pytest.mark.slow)
        for name in zoo.models("zoo")
    ],
)
def test_outputs_in_float32(name):
    case = list(zoo.REGISTRY[name].cases)[-1]  # all axes together
    checking.check_case(small(name, "float32"), case, tolerance=5e-6)


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, model in zoo.models(exact=False).items() for case in model.refused],
)
def test_refused_with_a_reason(name, case, x64):
    model = zoo.REGISTRY[name]
    (small_fn, before), (big_fn, after) = model.at(), model.big(case)
    double = as_dtype([before, after, *map(np.asarray, model.inputs)], np.float64)
    with pytest.raises(growth.GrowthError) as caught:
        model.plan(case, small_fn, big_fn, *double)
    error = caught.value
    assert model.refused[case] in str(error)
    assert error.params, "the error names no parameter"
    assert error.hint, error
    if not model.how:  # of an axis at one primitive, not of whole layers
        assert error.axis, error
        assert error.primitive, error
        assert "tests/growth/zoo/" in (error.source or ""), error.source
