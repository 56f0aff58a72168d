"""The kit finds wrong rules, and raises no alarm on the same code without the fault."""

import pytest

from tests.laws.mutants import CORRECT, MUTANTS, SURVIVORS, report_on

# One of each kind in every run; `python -m tests.laws.mutants` prints the whole score.
SAMPLE = (
    "adam: epsilon inside the root",
    "adam: count off by one",
    "adam without hyperparams: no bias correction",
    "adamw: L2 in the gradient",
    "any rule: hidden state",
    "any rule: state grows",
    "any rule: mutates the gradients",
    "any rule: moments share buffers",
    "sgd: nesterov from the old momentum",
    "clip_by_global_norm: each leaf by itself",
    "cosine: half the angle",
    "warmup: never reaches its peak",
)


def test_the_suite_is_large_enough_and_its_survivors_have_reasons():
    names = [m.name for m in MUTANTS]
    assert len(names) == len(set(names)) >= 60
    assert set(SURVIVORS) <= set(names)
    assert len(SURVIVORS) <= 0.03 * len(names)
    assert all(SURVIVORS.values())


@pytest.mark.parametrize("name", SAMPLE)
def test_a_wrong_rule_is_found(name):
    (mutant,) = [m for m in MUTANTS if m.name == name]
    report = report_on(mutant, quick=True)
    assert not report.ok
    assert all(f.statement and f.message and f.counterexample for f in report.failures)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant", [m for m in MUTANTS if m.name not in SAMPLE], ids=lambda m: m.name
)
def test_every_wrong_rule_is_found(mutant):
    assert report_on(mutant, quick=True).ok == (mutant.name in SURVIVORS)


@pytest.mark.slow
@pytest.mark.parametrize("correct", CORRECT, ids=lambda m: m.name)
def test_the_same_code_without_a_fault_passes(correct):
    report_on(correct).raise_for_failures()
