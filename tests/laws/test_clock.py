"""A check ends when its time is up or somebody presses Ctrl-C, and says what it did not reach."""

import itertools
import types

import jax
import jax.numpy as jnp
import optax
import pytest

from trainkit import laws
from trainkit.laws import clock

LAWS = ["purity", "state fixpoint", "extra arguments", "masked and partitioned", "resume"]


def descent(fault=False):
    """Descent, whose count may change its dtype."""

    def update(g, count, p=None):
        new = count + 1
        return jax.tree.map(lambda x: -0.1 * x, g), new * 1.0 if fault else new

    return lambda: optax.GradientTransformation(lambda p: jnp.zeros([], jnp.int32), update)


def test_a_check_is_over_when_its_time_is(monkeypatch):
    # A second for every question: updates that are not compiled take as long as they like.
    seconds = itertools.count()
    ticking = types.SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr(clock, "time", ticking)
    report = laws.check(descent(fault=True), laws=LAWS, examples=0, seconds=30.0)
    assert report.not_reached == ("masked and partitioned", "resume")
    # It ended at the first update past the limit, in the midst of a law.
    assert next(seconds) == 32
    text = str(report)
    assert "2 laws not reached" in text.splitlines()[0]
    assert "Not reached, as its 30 seconds were over" in text
    # What was found by then is there.
    assert [r.outcome for r in report.results][:2] == ["holds", "broken"]
    assert len(report.failures) == 1


def test_ctrl_c_gives_what_was_found_by_then():
    calls = []

    def update(g, s, p=None):
        calls.append(g)
        if len(calls) > 40:
            raise KeyboardInterrupt
        return jax.tree.map(lambda x: -0.1 * x, g), s + 1

    make = lambda: optax.GradientTransformation(lambda p: jnp.zeros([], jnp.int32), update)
    report = laws.check(make, laws=LAWS, examples=0)
    assert report.results[0].outcome == "holds"
    assert report.not_reached[-1] == "resume"
    assert "Not reached, as it was interrupted" in str(report)


def test_without_a_limit_all_is_reached_and_a_line_says_what_is_tried(capsys):
    report = laws.check(descent(), laws=LAWS[:2], seconds=None, progress=True)
    assert report.not_reached == ()
    shown = capsys.readouterr().err
    assert "purity (1 of 2, 0 s)" in shown
    assert shown.endswith("\r\x1b[K")
    laws.check(descent(), laws=LAWS[:1])
    assert capsys.readouterr().err == ""


def test_a_limit_is_a_time():
    with pytest.raises(ValueError, match="seconds must be"):
        laws.check(descent(), seconds=0)
