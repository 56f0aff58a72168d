"""The baseline: which test executes which lines, and how long it takes without a fault."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tools.faults.sandbox import LONGEST, Sandbox
from tools.faults.sites import Fault
from tools.faults.source import python_files

LEAST = 60.0  # the shortest time limit of a test in seconds


@dataclasses.dataclass
class Baseline:
    """The recorded lines and times of the tests, stored in a JSON file.

    Attributes:
      path: the file.
      digest: of all the code that the tests run, without the test files.
      modules: test file -> its digest; the seconds of each test; the lines that each executes, and
        the lines shared by all; the tests that fail without a fault, which are not run.
    """

    path: pathlib.Path
    digest: str
    modules: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: pathlib.Path, digest: str) -> Baseline:
        """The stored baseline; empty if the sources have changed since it was written."""
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["digest"] == digest:
                return cls(path, digest, kept["modules"])
        return cls(path, digest)

    def write(self) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({"digest": self.digest, "modules": self.modules}))
        beside.replace(self.path)

    def tests_of(self, fault: Fault) -> dict[str, float]:
        """Test -> seconds, for the tests that execute a line of the fault, the fastest first."""
        first, last = fault.lines
        bits = (1 << last + 1) - (1 << first)
        runs = lambda lines: int(lines.get(fault.file, "0x0"), 16) & bits
        found = [
            (seconds, test)
            for module in self.modules.values()
            for test, seconds in module["seconds"].items()
            if test not in module["failing"]
            and (runs(module["shared"]) or runs(module["lines"].get(test, {})))
        ]
        return {test: seconds for seconds, test in sorted(found)}

    def failing(self) -> dict[str, str]:
        return {test: why for m in self.modules.values() for test, why in m["failing"].items()}


def limits(tests: Mapping[str, float], patience: float) -> dict[str, float]:
    """Test -> seconds after which it counts as stuck."""
    return {test: min(LONGEST, max(LEAST, patience * s)) for test, s in tests.items()}


def recorded(
    place: Sandbox,
    files: Sequence[str],
    tests: Sequence[str],
    path: pathlib.Path,
    say: Callable[[str], None],
) -> Baseline:
    """The baseline of `tests` for `files`; does not rerun what is recorded already.

    Each test file runs by itself with its lines recorded. Then all tests run again in one process,
    the fastest first, as in trials. A test that fails in either is excluded.

    Args:
      files: the sources whose executed lines are recorded.
      tests: folders or files of tests.

    Raises:
      RuntimeError: the tests cannot be run.
    """
    tree = place.tree
    modules = [m for m in _names(tree, tests) if pathlib.PurePath(m).name.startswith("test_")]
    known = Baseline.read(path, _digest(tree, [*_helpers(tree, files, tests), *modules], files))
    known.modules = {m: v for m, v in known.modules.items() if m in modules}
    unfinished = place.cache / "unfinished"
    if unfinished.exists():  # a file of the compilation cache may be incomplete
        shutil.rmtree(place.cache)
    place.cache.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    for i, module in enumerate(modules):
        digest = hashlib.sha256((tree / module).read_bytes()).hexdigest()
        if known.modules.get(module, {}).get("digest") == digest:
            continue
        say(f"recording {module} ({i + 1} of {len(modules)})")
        outcome = place.run([module], record=files)
        if outcome.how not in ("passed", "failed") or not outcome.result:
            raise RuntimeError(f"{module} {outcome.how} without a fault: {outcome.message}")
        result = outcome.result
        known.modules[module] = {
            "digest": digest,
            "checked": False,
            "seconds": result["seconds"],
            "lines": result["lines"],
            "shared": result["shared"],
            "failing": result["failed"],
        }
        known.write()
    _check(place, known, say)
    unfinished.unlink()
    if not any(m["shared"] for m in known.modules.values()):
        raise RuntimeError("none of these tests executes a line of the sources: check --tests.")
    return known


def _check(place: Sandbox, known: Baseline, say: Callable[[str], None]) -> None:
    new = {name: m for name, m in known.modules.items() if not m["checked"]}
    if not new:
        return
    seconds = {t: s for m in new.values() for t, s in m["seconds"].items() if t not in m["failing"]}
    say(f"running {len(seconds)} tests in one process, cheapest first")
    outcome = place.run(list(new), order=sorted(seconds, key=lambda t: (seconds[t], t)))
    if outcome.how not in ("passed", "failed"):
        raise RuntimeError(f"{outcome.by} {outcome.how} without a fault: {outcome.message}")
    for module in new.values():
        tests = set(module["seconds"])
        found = outcome.result
        module["seconds"] |= {t: s for t, s in found["seconds"].items() if t in tests}
        module["failing"] |= {t: why for t, why in found["failed"].items() if t in tests}
        module["checked"] = True
    known.write()


def _names(tree: pathlib.Path, paths: Sequence[str]) -> list[str]:
    return [file.relative_to(tree).as_posix() for file in python_files(tree, paths)]


def _helpers(tree: pathlib.Path, files: Sequence[str], tests: Sequence[str]) -> Iterator[str]:
    """All files that tests may run: the package of the sources, and the files beside the tests."""
    tops = sorted({name.split("/")[0] for name in (*files, *tests)})
    for name in _names(tree, tops):
        if not pathlib.PurePath(name).name.startswith("test_"):
            yield name


def _digest(tree: pathlib.Path, names: Sequence[str], files: Sequence[str]) -> str:
    whole = hashlib.sha256(repr(sorted(files)).encode())
    for name in sorted(names):
        whole.update(name.encode() + (tree / name).read_bytes())
    return whole.hexdigest()
