"""What every rule claims of a primitive's results, held against what the primitive computes.

Hypothesis draws the primitive's parameters and its operands' axes; the harness draws layouts,
scales, shares and padding among all that the rules allow, and compares to 1e-12.
"""

from __future__ import annotations

import collections

import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, settings
from jax import lax

from tests.growth.rules import (
    contraction_cases,
    control_cases,
    elementwise_cases,
    indexing_cases,
    matrix_cases,
    reduction_cases,
    row_cases,
    shape_cases,
    top_k_cases,
)
from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, Prod
from tests.growth.rules.harness import Case, Operand, settle
from trainkit.growth.rules import RULES

pytestmark = pytest.mark.usefixtures("x64")
FAMILIES = (
    contraction_cases, control_cases, elementwise_cases, indexing_cases, matrix_cases,
    reduction_cases, row_cases, shape_cases, top_k_cases,
)  # fmt: skip
CASES = {
    (name, label): strategy
    for family in FAMILIES
    for name, cases in family.CASES.items()
    for label, strategy in cases.items()
}
# What has a meaning where nothing grows alone, or makes no result that grows.
FIXED = {
    ("dot_general", "all axes"),
    ("conv_general_dilated", "batch groups"), ("ragged_dot_general", "contracted"),
    ("choice", "places in a queue"), ("dynamic_slice", ""), ("fft", ""),
}  # fmt: skip


def check(name: str, label: str, examples: int, derandomize: bool, parted=False) -> None:
    seen: collections.Counter = collections.Counter()

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(CASES[name, label])
    def hold(case: Case) -> None:
        verdict = settle(case._replace(parted=parted))
        if verdict.refused is None and (name in verdict.names or name == "choice"):
            seen.update(accepted=1, grown=verdict.grown)

    hold()
    assert seen["accepted"], "no case was accepted: this says nothing of what is claimed"
    assert seen["grown"] or (name, label) in FIXED, "nothing grew"


@pytest.mark.parametrize(("name", "label"), list(CASES), ids=lambda part: part or "any")
def test_claims_hold(name, label):
    check(name, label, 25, derandomize=True)


@pytest.mark.parametrize(("name", "label"), list(CASES), ids=lambda part: part or "any")
def test_claims_hold_of_parts(name, label):
    check(name, label, 15, derandomize=True, parted=True)


@pytest.mark.slow
@pytest.mark.parametrize("parted", [False, True])
@pytest.mark.parametrize(("name", "label"), list(CASES), ids=lambda part: part or "any")
def test_claims_hold_in_many_cases(name, label, parted):
    check(name, label, 500, derandomize=False, parted=parted)


MERGED = Prod((DOUBLE, HALF_MORE))
FOUND = {
    "all axes": (
        lambda a, b: lax.dot_general(a, b, (((0, 1, 2), (0, 1, 2)), ((), ()))),
        (Operand((2, HALF_MORE, MERGED)), Operand((2, HALF_MORE, MERGED))),
    ),
    "a positive sum": (lambda x: jnp.sum(x, 0), (Operand((2, 2, MERGED), "positive"),)),
}


@pytest.mark.parametrize("name", FOUND)
def test_cases_that_were_found(name):
    """Two operands that are split along different axes; a positive operand with a share of 0."""
    fn, operands = FOUND[name]
    assert sum(settle(Case(fn, fn, operands, seed)).refused is None for seed in range(20))


def test_every_rule_is_tested():
    assert {name for name, _ in CASES} == set(RULES)
