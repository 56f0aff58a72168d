"""Bad inputs: each is named by its argument and its mend, or leaves the results as they were."""

import jax.numpy as jnp
import optax
import pytest

from benchmarks.reliability import inputs
from benchmarks.reliability.mistakes import base, loop
from benchmarks.reliability.mistakes.base import Mistake, Said

SHARE = 16  # of the catalogue, one in this many runs by default


def wrong(mistakes):
    """Those that do not end as they should, with what was said."""
    outcomes = {name: inputs.attempt(mistake) for name, mistake in mistakes.items()}
    return {name: found for name, found in outcomes.items() if found.verdict not in inputs.GOOD}


def test_a_share_of_the_catalogue():
    every = {name: m for found in inputs.catalogue().values() for name, m in found.items()}
    assert len(every) > 1000
    assert wrong(dict(list(every.items())[::SHARE])) == {}


@pytest.mark.slow
@pytest.mark.parametrize("room", inputs.ROOMS)
def test_the_whole_catalogue(room):
    assert wrong(inputs.ROOMS[room]()) == {}


def test_another_run_in_the_same_folder_is_named_and_the_same_goes_on():
    found = loop.identities()
    assert len(found) >= 15
    assert wrong(found) == {}


@pytest.mark.parametrize(
    ("make", "says", "harmless", "verdict"),
    [
        (lambda out: base.fit(out, steps=0), ("steps", "must be"), False, "named"),
        (lambda out: base.fit(out, steps=0), ("epochs",), False, "traceback"),
        (lambda out: jnp.ones(2) @ jnp.ones(3), (), False, "traceback"),
        (lambda out: optax.sgd("0.1"), (), False, "accepted"),
        (lambda out: True, (), True, "harmless"),
        (lambda out: False, (), True, "accepted"),
        (lambda out: base.fit(out, steps=0), (), True, "traceback"),
        (lambda out: Said("no such"), ("such",), False, "named"),
    ],
)
def test_the_verdict_on_a_trial(make, says, harmless, verdict):
    assert inputs.attempt(Mistake(make, says, harmless)).verdict == verdict


def test_what_is_named_after_something_was_written_is_late():
    def make(out):
        base.fit(out)
        base.fit(out, steps=0)

    assert inputs.attempt(Mistake(make, ("steps",))).verdict == "late"


def test_the_table_counts_by_room():
    named, late = inputs.Outcome("named", "", 0.1), inputs.Outcome("late", "", 0.1)
    table = inputs.table({"a": {"x": named, "y": late}, "b": {"z": named}})
    assert table.splitlines()[2:] == [
        "| a | 2 | 1 | 0 | 0 | 1 | 0 |",
        "| b | 1 | 1 | 0 | 0 | 0 | 0 |",
        "| all | 3 | 2 | 0 | 0 | 1 | 0 |",
    ]
