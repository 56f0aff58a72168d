"""What the comparison with a reference says of a rule that is Optax's."""

import optax
import pytest

from trainkit import laws

RATE = {"learning_rate": 1e-2}


def message(make, like, hyperparams):
    report = laws.check(make, like=like, hyperparams=hyperparams, laws=["oracle"], examples=5)
    (failure,) = report.failures
    return failure.message


@pytest.mark.parametrize("hyperparams", [RATE, {}])
def test_a_rule_that_is_optaxs_and_not_the_papers_is_told_so(hyperparams):
    words = message(lambda: optax.amsgrad(1e-2), "amsgrad", hyperparams)
    assert "This is Optax's rule, which departs from the paper (the largest uncorrected v" in words
    assert words.endswith("check it with like='optax.amsgrad'")
    found = laws.check(lambda: optax.amsgrad(1e-2), like="optax.amsgrad", hyperparams=hyperparams,
                       laws=["oracle"], examples=5)  # fmt: skip
    found.raise_for_failures()


def test_a_rule_that_is_neither_is_not():
    words = message(lambda: optax.adam(1e-2, b1=0.8), "amsgrad", RATE)
    assert "Optax's rule" not in words
