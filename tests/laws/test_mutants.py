"""The kit finds wrong rules, and raises no alarm on the same code without the fault."""

import pytest

from tests.laws import late_mutants as late
from tests.laws import newcomer_mutants as newcomer
from tests.laws import stranger_mutants as stranger
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
LATE_SAMPLE = (
    "clip by norm: soft",
    "guard: one too many",
    "scope: rows are vectors",
    "shampoo by claims: lost between refreshes",
)
STRANGER_SAMPLE = (
    "muon: shape factor in/out instead of out/in",
    "shampoo: refreshed every k + 1 steps after the first time",
    "stale_adam: refreshed once only",
    "sophia_like: only clipped from above",
    "factored: normalised by the mean over the stack",
    "guard: counts all bad gradients, not those in a row",
)
NEWCOMER_SAMPLE = (
    "adam_count: counts in the parameters' dtype",
    "micro: a window begins with the last gradient of the one before",
    "muon_adamw: decay of matrices times the shape factor",
)
SAMPLES = SAMPLE + LATE_SAMPLE + STRANGER_SAMPLE + NEWCOMER_SAMPLE
LARGE_SUITES = (
    (MUTANTS, SURVIVORS), (late.MUTANTS, late.SURVIVORS), (stranger.MUTANTS, stranger.SURVIVORS)
)  # fmt: skip
SUITES = (*LARGE_SUITES, (newcomer.MUTANTS, newcomer.SURVIVORS))
EVERY = [m for mutants, _ in SUITES for m in mutants]


def test_the_suite_is_large_enough_and_its_survivors_have_reasons():
    for mutants, survivors in SUITES:
        names = [m.name for m in mutants]
        assert len(names) == len(set(names))
        assert set(survivors) <= set(names)
        assert all(survivors.values())
    for mutants, survivors in LARGE_SUITES:
        assert len(mutants) >= 60
        assert len(survivors) <= 0.03 * len(mutants)
    assert len(newcomer.MUTANTS) >= 30


@pytest.mark.parametrize("name", SAMPLES)
def test_a_wrong_rule_is_found(name):
    (mutant,) = [m for m in EVERY if m.name == name]
    report = report_on(mutant, quick=True)
    assert not report.ok
    assert all(f.statement and f.message and f.counterexample for f in report.failures)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [m for m in EVERY if m.name not in SAMPLES],
    ids=lambda m: m.name,
)
def test_every_wrong_rule_is_found(mutant):
    alive = {**SURVIVORS, **late.SURVIVORS, **stranger.SURVIVORS, **newcomer.SURVIVORS}
    assert report_on(mutant, quick=True).ok == (mutant.name in alive)


@pytest.mark.slow
@pytest.mark.parametrize(
    "correct", [*CORRECT, *stranger.CORRECT, *newcomer.CORRECT], ids=lambda m: m.name
)
def test_the_same_code_without_a_fault_passes(correct):
    report_on(correct).raise_for_failures()


@pytest.mark.slow
@pytest.mark.parametrize("correct", late.CORRECT, ids=lambda m: m.name)
def test_the_late_code_without_a_fault_passes_the_laws_of_which_its_mutants_die(correct):
    report_on(correct, only_likely=True).raise_for_failures()
