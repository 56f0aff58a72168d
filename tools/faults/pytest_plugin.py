"""The pytest plugin in the copy: orders tests, reports the current test, records executed lines.

It is loaded before anything of the project, and so imports nothing of it. Its job is in the JSON
file that the environment variable FAULTS_JOB names (see `sandbox`).
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
    """The executed lines of a set of files, as the bits of one integer per file (bit 0 unused)."""

    def __init__(self, files):
        self._seen: dict[str, set[int]] = {path: set() for path in files}
        self._inside = {path: self._recorder(seen) for path, seen in self._seen.items()}
        self._names = files

    @staticmethod
    def _recorder(seen):
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
        """Adds the lines executed since the last call."""
        for path, seen in self._seen.items():
            if seen:
                name = self._names[path]
                bits = sum(1 << line for line in seen)
                into[name] = hex(int(into.get(name, "0x0"), 16) | bits)
                seen.clear()


LINES = Lines(JOB["record"])
if JOB["record"]:
    LINES.start()


def clear_caches():
    """Clears the caches of functions, so that a test executes all the lines that it needs."""
    root = os.getcwd() + os.sep
    for module in list(sys.modules.values()):
        if (getattr(module, "__file__", None) or "").startswith(root):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
    if "jax" in sys.modules:  # otherwise a compiled program runs without executing its source
        sys.modules["jax"].clear_caches()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if JOB["order"] is not None:
        at = {name: i for i, name in enumerate(JOB["order"])}
        chosen = sorted((i for i in items if i.nodeid in at), key=lambda i: at[i.nodeid])
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in at])
        items[:] = chosen


def pytest_collection_finish():
    # Import everything now, so that no test's lines include those of an import.
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
    clear_caches()
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
    # All tests of the file depend on a shared fixture, not only the first to request it.
    LINES.take(RESULT["lines"].setdefault(request._pyfuncitem.nodeid, {}))
    try:
        return (yield)
    finally:
        LINES.take(RESULT["shared"])


def pytest_runtest_logreport(report):
    seconds = RESULT["seconds"].get(report.nodeid, 0.0) + report.duration
    RESULT["seconds"][report.nodeid] = seconds
    _record_failure(report)


def pytest_collectreport(report):
    _record_failure(report)


def _record_failure(report):
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr).strip().rpartition("\n")[2]
        RESULT["failed"].setdefault(report.nodeid, text.partition("\n")[0][:200])


def pytest_sessionfinish():
    LINES.take(RESULT["shared"])
    pathlib.Path(JOB["result"]).write_text(json.dumps(RESULT))
