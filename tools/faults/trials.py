"""Trials: plants one fault at a time, runs the tests that execute it, and stores the result."""

from __future__ import annotations

import hashlib
import json
import pathlib
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from tools.faults.baseline import Baseline, limits
from tools.faults.sandbox import Sandbox
from tools.faults.sites import Fault
from tools.faults.source import Source

Record = dict[str, Any]


def read(
    path: pathlib.Path, faults: Sequence[Fault], sources: Mapping[str, Source]
) -> dict[str, Record]:
    """Key of a fault -> its stored result, without results of files that have changed since."""
    wanted = {fault.key(): _digest(sources[fault.file]) for fault in faults}
    lines = path.read_text().splitlines() if path.exists() else []
    records = (json.loads(line) for line in lines)
    return {r["key"]: r for r in records if wanted.get(r["key"]) == r["digest"]}


def run(
    faults: Sequence[Fault],
    sources: Mapping[str, Source],
    baseline: Baseline,
    places: Sequence[Sandbox],
    path: pathlib.Path,
    patience: float,
) -> Iterator[Record]:
    """Runs one trial per fault, in parallel over `places`; yields each result after writing it."""
    free: queue.Queue[Sandbox] = queue.Queue()
    for place in places:
        free.put(place)

    def work(fault: Fault) -> Record:
        place = free.get()
        try:
            return trial(fault, sources[fault.file], baseline, place, patience)
        finally:
            free.put(place)

    with ThreadPoolExecutor(len(places)) as pool:
        trials = [pool.submit(work, fault) for fault in faults]
        try:
            for done in as_completed(trials):
                record = done.result()
                with open(path, "a") as file:
                    file.write(json.dumps(record) + "\n")
                yield record
        finally:
            # On an early end, stop running trials at once, and cancel the others.
            for place in places:
                place.stop.set()
            pool.shutdown(cancel_futures=True)


def trial(
    fault: Fault, source: Source, baseline: Baseline, place: Sandbox, patience: float
) -> Record:
    """Runs the tests that execute a fault until one fails."""
    tests = baseline.tests_of(fault)
    modules = sorted({test.partition("::")[0] for test in tests})
    began = time.monotonic()
    how, by, message, ran = "not run", "", "no test runs this line", 0
    if tests:
        with place.planted(fault.file, source.edited(fault.edit)):
            outcome = place.run(
                modules, order=list(tests), first=True, limits=limits(tests, patience)
            )
        how, by, message = outcome.how, outcome.by, outcome.message
        ran = len(outcome.result.get("seconds", ()))
    return {
        "key": fault.key(),
        "digest": _digest(source),
        "file": fault.file,
        "line": fault.line,
        "kind": fault.kind,
        "before": fault.before,
        "after": fault.after,
        "killed": how not in ("passed", "not run"),
        "how": how,
        "by": by,
        "message": message,
        "ran": ran,
        "of": len(tests),
        "seconds": round(time.monotonic() - began, 1),
    }


def _digest(source: Source) -> str:
    return hashlib.sha256(source.data).hexdigest()[:16]
