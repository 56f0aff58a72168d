"""`python -m tools.optax_report`: every rule and schedule of Optax against every law.

It checks every public name of the installed Optax, contrib included, at the strict level. Processes
are replaced after some rows, because thousands of compilations in one process exhaust its memory
maps. Each outcome is stored in a folder, so that an interrupted run can continue. It writes
docs/laws-of-optax.md. docs/laws-of-optax.toml classifies violations with reasons (a bug, a
documented limitation, a law that the rule does not claim); others are shown as unclassified.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.optax_report import deviations
from tools.optax_report.page import page, reproducer
from tools.optax_report.programs import errors, shows
from tools.optax_report.rows import WRAPPED, constructions

OUTCOMES = Path("build/laws-of-optax")
CLASSES = Path("docs/laws-of-optax.toml")
PAGE = Path("docs/laws-of-optax.md")
TIMEOUT = 600  # seconds for one rule


def check_one(
    row: str, expression: str, quick: bool = False, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """The outcome of one row, or of `only` these laws, as JSON values."""
    import optax

    from trainkit import laws
    from trainkit.laws.protocol import is_transformation, ordinary
    from trainkit.laws.subject import shrink

    shrink.BUDGET = 2.0
    if quick and only is None:
        only = QUICK
    with ordinary():
        reference, hyperparams, made = _made(row, expression)
        built = made()
    if is_transformation(built):
        report = laws.check(
            made,
            like=reference,
            hyperparams=hyperparams,
            level="strict",
            examples=5,
            laws=None if only is None else [x for x in only if reference or "oracle" not in x],
        )
    else:
        report = laws.check_schedule(
            built, like=reference, hyperparams=hyperparams, level="strict", laws=only
        )
    return {
        "row": row,
        "expression": expression,
        "kind": "rule" if is_transformation(built) else "schedule",
        "like": reference,
        "quick": quick and is_transformation(built),
        "optax": optax.__version__,
        "results": [[r.law, r.level, r.outcome, r.note] for r in report.results],
        "failures": [
            {"law": f.law, "level": f.level, "message": f.message, "reproducer": f.reproducer}
            for f in report.failures
        ],
        "notes": list(report.notes),
    }


def _made(row: str, expression: str) -> tuple[str | None, dict[str, Any] | None, Any]:
    """The reference of a row, its hyper-parameters, and the factory of its rule."""
    import functools

    import optax

    from trainkit import laws
    from trainkit.laws.oracles.catalogue import bind, function, reference_name

    name = row.split(",")[0]
    # Where Optax departs from the paper, the reference is Optax's own rule.
    like = reference_name(f"optax.{name}")
    space = {"optax": optax}
    ending = re.escape(WRAPPED) if like == "MultiSteps" else ""
    call = re.fullmatch(rf"optax\.{re.escape(name)}\((.*)\){ending}", expression, re.S)
    if not call or (like not in laws.RULES and like not in laws.SCHEDULES):
        return None, None, eval(f"lambda: {expression}", space)
    hyperparams = eval(f"dict({call[1]})", space)
    _, missing = bind(like, hyperparams)
    assert not missing, (row, missing)
    if like == "MultiSteps":
        return like, hyperparams, eval(f"lambda: {expression}", space)
    return like, hyperparams, functools.partial(function(like), **hyperparams)


# The laws with most violations, for --quick.
QUICK = ("structure", "no promotion", "state fixpoint", "donation", "oracle", "bfloat16",
         "zero gradients", "mixed dtypes", "extremes", "counts")  # fmt: skip
CHUNK = 40  # rows per process


def _path(row: str) -> Path:
    return OUTCOMES / (re.sub(r"[^\w.]+", "_", row) + ".json")


class Late(BaseException):
    """A timeout. Not an Exception, because an Exception of a rule is a failure."""


def mended(row: str, expression: str, names: Sequence[str]) -> dict[str, Any]:
    """The earlier outcome of a row, with those of these laws that apply to it checked again."""
    old: dict[str, Any] = json.loads(_path(row).read_text())
    held = {law for law, _, outcome, _ in old["results"] if outcome != "not claimed"}
    names = [n for n in names if n in held]
    if not names:
        return old
    new = check_one(row, expression, only=names)
    latest = {r[0]: r for r in new["results"]}
    old["results"] = [latest.get(r[0], r) for r in old["results"]]
    old["failures"] = [f for f in old["failures"] if f["law"] not in names] + new["failures"]
    return old


def work(rows: dict[str, str], quick: bool = False, names: Sequence[str] = ()) -> None:
    """Checks rows (or only these laws) in this process, and stores each outcome."""
    import jax

    def late(*_: Any) -> None:
        raise Late(f"it takes more than {TIMEOUT} s")

    signal.signal(signal.SIGALRM, late)
    for row, expression in rows.items():
        if quick and _path(row).exists():
            continue  # done by another process
        start = time.process_time()
        # Written first, in case the process dies.
        outcome: dict[str, Any] = {"row": row, "expression": expression, "error": "it died"}
        if not names:
            _path(row).write_text(json.dumps(outcome))
        signal.alarm(TIMEOUT)
        try:
            if names:
                outcome = mended(row, expression, names)
            else:
                outcome = check_one(row, expression, quick)
        except (Exception, Late) as error:
            outcome["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        signal.alarm(0)
        if not names or "error" not in outcome:
            _path(row).write_text(json.dumps(outcome))
        spent = time.process_time() - start
        print(f"{spent:6.1f} s  {row}  {outcome.get('error', '')}", flush=True)
        # Rows share the compiled programs of the laws, which are half of their cost.
        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
            jax.clear_caches()


def _complete(row: str, quick: bool) -> bool:
    """Whether an outcome is complete; a quick one is enough only for a quick run."""
    if not _path(row).exists():
        return False
    outcome = json.loads(_path(row).read_text())
    return "results" in outcome and (quick or not outcome.get("quick", False))


def run(
    wanted: list[str], again: bool, deadline: float, quick: bool, reverse: bool,
    names: Sequence[str] = (),
) -> None:  # fmt: skip
    """Checks rows without an outcome, `CHUNK` per process, each process with a time limit."""
    OUTCOMES.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    rows = {r: e for r, e in constructions().items() if not wanted or r in wanted}
    if reverse:
        rows = dict(reversed(rows.items()))
    if again:
        for row in rows:
            _path(row).unlink(missing_ok=True)
    done: set[str] = set()
    left_over = lambda r: _complete(r, False) if names else not _complete(r, quick)
    while pending := [r for r in rows if r not in done and left_over(r)]:
        left = deadline - (time.monotonic() - began)
        if left <= 0:
            print("out of time; run it again to continue", flush=True)
            return
        code = (
            "import sys, json; from tools.optax_report import report as r; "
            f"r.work(json.loads(sys.argv[1]), {quick}, {list(names)!r})"
        )
        flag = "--xla_force_host_platform_device_count=2"  # two replicas are enough to differ
        env = os.environ | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}",
            "JAX_PLATFORMS": "cpu",
            # A second run, after a law was fixed, finds most programs compiled.
            "JAX_COMPILATION_CACHE_DIR": str((OUTCOMES / "programs").absolute()),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        some = {row: rows[row] for row in pending[:CHUNK]}
        done |= set(some)
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [sys.executable, "-c", code, json.dumps(some)],
                env=env, check=False, timeout=min(TIMEOUT * CHUNK, max(left, TIMEOUT)),
            )  # fmt: skip


def render() -> str:
    """The page, from the stored outcomes."""
    classes = tomllib.loads(CLASSES.read_text()) if CLASSES.exists() else {}
    outcomes = {}
    for path in sorted(OUTCOMES.glob("*.json")):
        outcome = json.loads(path.read_text())
        outcomes[outcome["row"]] = outcome
    lines = page(classes, constructions(), outcomes, len(QUICK), _shown, deviations.section())
    return "\n".join(lines) + "\n"


def _shown(programs: Sequence[str]) -> list[bool]:
    """Whether each program fails outside the kit; results are cached."""
    path = OUTCOMES / "programs.txt"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if new := [p for p in dict.fromkeys(programs) if p not in known]:
        known |= dict(zip(new, errors(new), strict=True))
        path.write_text(json.dumps(known))
    return [shows(known[p]) for p in programs]


def show(row: str, law: str) -> int:
    """Checks one law of one row and prints the programs that break it."""
    expression = constructions()[row]
    for failure in check_one(row, expression, only=[law])["failures"]:
        print(reproducer(failure, expression))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.optax_report")
    parser.add_argument("rows", nargs="*", help="only these rows")
    parser.add_argument("--again", action="store_true", help="ignore earlier outcomes")
    parser.add_argument("--render", action="store_true", help="only write the page")
    parser.add_argument("--minutes", type=float, default=600, help="stop starting rows after this")
    parser.add_argument("--quick", action="store_true", help="only the laws broken most often")
    parser.add_argument("--reverse", action="store_true", help="from the end")
    parser.add_argument(
        "--law", action="append", default=[], help="only check this law again; repeatable"
    )
    parser.add_argument(
        "--reproducer", nargs=2, metavar=("ROW", "LAW"), help="print the program of one violation"
    )
    options = parser.parse_args(argv)
    if options.reproducer:
        return show(*options.reproducer)
    if not options.render:
        seconds = options.minutes * 60
        run(options.rows, options.again, seconds, options.quick, options.reverse, options.law)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render())
    print(f"wrote {PAGE}")
    return 0
