"""Published architectures: each axis alone and all together, at multiples and at none."""

import zlib

import numpy as np
import pytest

from tests.growth import checking, published
from trainkit import growth

ALWAYS = ("retention in chunks",)
NAMES = [
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow)
    for name in published.MODELS
]


@pytest.mark.parametrize("name", NAMES)
def test_exact_or_refused_with_a_reason(name, x64, request):
    case = checking.Small(name, published.MODELS[name], np.dtype("float64"))
    variants = list(case.model.grown)
    assert set(published.REFUSED[name]) <= set(variants)
    if request.config.getoption("--slow") != "all":  # compiling all of them takes a minute
        variants = [variants[zlib.crc32(name.encode()) % len(variants)]]
    for variant in variants:
        if variant in published.REFUSED[name]:
            _check_refused(case, variant)
        else:
            # A stream behind a LayerNorm that grows to no multiple: said to be a best guess.
            guesses = "x1.5" in variant
            checking.check_variant(case, variant, tolerance=1e-12, guesses=guesses)


def _check_refused(case, variant):
    big_fn, big = case.big(variant)
    with pytest.raises(growth.GrowthError) as caught:
        growth.plan(case.fn, big_fn, case.params, big, *case.inputs)
    error = caught.value
    assert error.axis, error
    assert error.params, error
    assert error.primitive, error
    assert "tests/growth/" in (error.source or ""), error.source
    assert error.hint, error
