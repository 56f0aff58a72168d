"""What a library leaves behind when it fails."""

import sys
import types

import pytest

from trainkit.loop.saved.failures import attempt


def test_a_read_that_ends_after_its_failure_is_not_heard_and_all_else_is(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    for _ in range(2):  # one hook, however often something fails
        with pytest.raises(ValueError, match="division by zero"):
            attempt(lambda: 1 / 0, ValueError)
    assert sys.unraisablehook.hook == heard.append
    late, other = (
        types.SimpleNamespace(exc_value=RuntimeError(words))
        for words in ("Event loop is closed", "of somebody else")
    )
    sys.unraisablehook(late)
    sys.unraisablehook(other)
    assert heard == [other]
