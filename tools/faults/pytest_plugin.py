"""Runs inside pytest, in the copy: puts tests in order, says which one is on, records lines.

It is loaded by itself, before anything of the project, and so imports nothing of it. What to do is
in the JSON file that FAULTS_JOB names (see `workplace.Job`).
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pathlib
import sys
import threading

import pytest

JOB = json.loads(pathlib.Path(os.environ["FAULTS_JOB"]).read_text())
RESULT: dict[str, dict] = {"seconds": {}, "failed": {}, "lines": {}, "shared": {}}


class Lines:
    """Which lines of some files run, as bits of one number per file; bit 0 is not used."""

    def __init__(self, files):
        self._seen: dict[str, set[int]] = {path: set() for path in files}
        self._inside = {path: self._note(seen) for path, seen in self._seen.items()}
        self._names = files

    @staticmethod
    def _note(seen):
        def trace(frame, event, arg):
            seen.add(frame.f_lineno)
            return trace

        return trace

    def start(self):
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def _trace(self, frame, event, arg):
        return self._inside.get(frame.f_code.co_filename)

    def take(self, into):
        """Adds what ran since the last call."""
        for path, seen in self._seen.items():
            if seen:
                name = self._names[path]
                bits = sum(1 << line for line in seen)
                into[name] = hex(int(into.get(name, "0x0"), 16) | bits)
                seen.clear()


LINES = Lines(JOB["record"])
if JOB["record"]:
    LINES.start()


def forget():
    """Empties the caches of functions, so that a test runs by itself all lines that it needs."""
    root = os.getcwd() + os.sep
    for module in list(sys.modules.values()):
        if (getattr(module, "__file__", None) or "").startswith(root):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
    if "jax" in sys.modules:  # else a program that is compiled already runs without its source
        sys.modules["jax"].clear_caches()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if JOB["order"] is not None:
        at = {name: i for i, name in enumerate(JOB["order"])}
        chosen = sorted((i for i in items if i.nodeid in at), key=lambda i: at[i.nodeid])
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in at])
        items[:] = chosen


def pytest_collection_finish():
    # Nothing is left to be imported by the first test that needs it.
    for name in JOB["record"].values():
        importlib.import_module(
            name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with open(JOB["progress"], "a") as progress:
        progress.write(f"{item.nodeid}\n")
    if not JOB["record"]:
        return (yield)
    forget()
    LINES.take(RESULT["shared"])
    LINES.start()
    try:
        return (yield)
    finally:
        LINES.take(RESULT["lines"].setdefault(item.nodeid, {}))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if not JOB["record"] or fixturedef.scope == "function":
        return (yield)
    # All tests of the file depend on it; the first to ask does not have it for itself.
    LINES.take(RESULT["lines"].setdefault(request._pyfuncitem.nodeid, {}))
    try:
        return (yield)
    finally:
        LINES.take(RESULT["shared"])


def pytest_runtest_logreport(report):
    seconds = RESULT["seconds"].get(report.nodeid, 0.0) + report.duration
    RESULT["seconds"][report.nodeid] = seconds
    _note_failure(report)


def pytest_collectreport(report):
    _note_failure(report)


def _note_failure(report):
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr).strip().rpartition("\n")[2]
        RESULT["failed"].setdefault(report.nodeid, text.partition("\n")[0][:200])


def pytest_sessionfinish():
    LINES.take(RESULT["shared"])
    pathlib.Path(JOB["result"]).write_text(json.dumps(RESULT))
