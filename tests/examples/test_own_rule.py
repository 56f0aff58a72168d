"""The rule in examples/: the laws and the checks by hand are the same, and find the same errors."""

import pathlib

import pytest

from examples import test_own_rule as ours
from examples.plain import test_own_rule as plain
from examples.plain.test_own_rule import *  # noqa: F403  (its tests are collected here)
from examples.test_own_rule import test_law  # noqa: F401  (collected here too)
from trainkit import laws

ROOT = pathlib.Path(plain.__file__).parents[1]
CHECKS = {
    name.removeprefix("test_"): check
    for name, check in vars(plain).items()
    if name.startswith("test_")
}

# Law -> (what stands in the rule, what is planted).
FAULTS = {
    "zero gradients": ("jnp.where(size > 0, size, 1)", "size"),
    "state fixpoint": ("optax.safe_increment(state[0])", "state[0] + 1.0"),
    "no promotion": ("jnp.zeros_like, params)", "lambda p: jnp.zeros(p.shape), params)"),
    "hyper-parameters": ("weight_decay * p", "0.1 * p"),
    "degree": ("jnp.where(size > 0, size, 1)", "jnp.sqrt(jnp.where(size > 0, size, 1))"),
    "decoupled decay": (
        "(1 - beta) * g, momentum, grads)",
        "(1 - beta) * (g + p), momentum, grads, params)",
    ),
    "donation": ("jax.tree.map(jnp.zeros_like, params)", "jax.tree.map(lambda p: p, params)"),
}  # fmt: skip


def named(law):
    """The check by hand of a law."""
    return law.replace("-parameters", "parameters").replace(" ", "_")


def test_the_checks_are_those_of_the_laws():
    (mark,) = ours.test_law.pytestmark
    checked = {named(law) for law in mark.kwargs["ids"]}
    # It takes no extra arguments, so that the law about them does not apply.
    assert set(CHECKS) == checked - {"extra_arguments"}


def planted(path, fault):
    text = path.read_text()
    before, after = fault
    assert text.count(before) >= 1
    return text.replace(before, after).replace("lambda m, g: beta", "lambda m, g, p=0: beta")


def attempts(check):
    """The calls of a test with what it is parametrised with."""
    marks = getattr(check, "pytestmark", [])
    return [{mark.args[0]: value} for mark in marks for value in mark.args[1]] or [{}]


@pytest.mark.parametrize("law", FAULTS)
def test_both_find_an_error(law, tmp_path):
    report_of, by_hand = {"__name__": "ours"}, {"__name__": "plain"}
    file = tmp_path / "rule.py"
    file.write_text(planted(ROOT / "test_own_rule.py", FAULTS[law]))
    exec(compile(file.read_text(), str(file), "exec"), report_of)
    rule, claims = report_of["normalised_momentum"], report_of["CLAIMS"]
    assert [f.law for f in laws.check(rule, claims=claims, laws=[law]).failures] == [law]
    exec(planted(ROOT / "plain" / "test_own_rule.py", FAULTS[law]), by_hand)
    check = by_hand[f"test_{named(law)}"]

    def run():
        for arguments in attempts(check):
            check(**arguments)

    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        run()
