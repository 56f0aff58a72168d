"""Measures what trainkit costs, beside others in one run, and writes docs/performance.md.

    python -m benchmarks                      # what `make bench` measures: 22 minutes
    python -m benchmarks step update:large    # some parts, or cases of them
    python -m benchmarks --quick              # few rounds of small sizes; nothing is written
    python -m benchmarks --table              # only prints what was measured before

A row is a ratio of two sides that alternate within the run, as the median and quartiles of its
rounds; more than 1 means that trainkit is faster, or as its name says. Other libraries run in an
environment of their own, build/peers, which is made when it is first needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

from benchmarks import document, machine
from benchmarks.effort import Effort, warn
from benchmarks.parts import ON_REQUEST, PARTS
from benchmarks.peers import environment
from benchmarks.rows import HEAD, printed


def module_of(part: str) -> ModuleType:
    """The module of a part."""
    return importlib.import_module(f"benchmarks.parts.{part}")


def catalogue() -> str:
    """The parts with their first lines and cases, for --help."""
    lines = []
    for title, parts in (("parts", PARTS), ("on request", ON_REQUEST)):
        lines.append(f"{title}:")
        for part in parts:
            module = module_of(part)
            lines += [f"  {part:<10} {module.__doc__.splitlines()[0]}"]
            lines += [f"  {'':<10} cases: {', '.join(module.CASES)}"]
    return "\n".join(lines)


def chosen(names: list[str]) -> dict[str, list[str]]:
    """Part -> cases (all of them if none is named), in the order of the names.

    Raises:
      ValueError: an unknown part or case.
    """
    found: dict[str, list[str]] = {}
    for name in names or PARTS:
        part, _, case = name.partition(":")
        if part not in PARTS + ON_REQUEST:
            raise ValueError(f"unknown part {part!r}; one of {', '.join(PARTS + ON_REQUEST)}")
        cases = module_of(part).CASES
        if case and case not in cases:
            raise ValueError(f"unknown case {case!r} of {part}; one of {', '.join(cases)}")
        found.setdefault(part, []).extend([case] if case else cases)
    return found


def measure(part: str, cases: list[str], effort: Effort, page: Path | None) -> int:
    """Runs the cases in this process, and writes each when it is done; 1 if one failed."""
    import jax

    module, failed = module_of(part), False
    # Before JAX starts its devices, which happens once in a process.
    jax.config.update("jax_num_cpu_devices", module.DEVICES)
    # Programs are compiled as on a first run.
    jax.config.update("jax_enable_compilation_cache", False)
    warn(f"{part}: {machine.line()}")
    for case in cases:
        rows, busy = [], machine.busy()
        try:
            for row in module.CASES[case](effort):
                note = "; ".join(filter(None, (row.note, busy)))
                command = f"python -m benchmarks {part}:{case}"
                rows.append(dataclasses.replace(row, command=command, note=note))
                print(printed(rows[-1]), flush=True)
        except Exception:  # the other cases are measured all the same
            traceback.print_exc()
            failed = True
        if page and rows:
            kind = machine.device()[0]
            peers = environment.versions() if module.PEERS else {}
            heading = f"{part} ({kind}): {module.__doc__.splitlines()[0]}"
            document.write(page, f"{part}, {kind}", heading, machine.line(peers), rows)
    return int(failed)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line; one process for each part, because they differ in devices."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=catalogue(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART[:CASE]")
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes, not written")
    parser.add_argument("--rounds", type=int, help="of every comparison, in the place of its own")
    parser.add_argument("--table", action="store_true", help="print what was measured before")
    parser.add_argument("--page", type=Path, help="the page to write (docs/performance.md)")
    options = parser.parse_args(arguments)
    page = options.page or (None if options.quick else document.PAGE)
    if options.table:
        print("\n".join(document.sections((options.page or document.PAGE).read_text()).values()))
        return
    try:
        wanted = chosen(options.parts)
    except ValueError as error:
        parser.error(str(error))
    if len(wanted) > 1:
        sys.exit(each(wanted, options))
    ((part, cases),) = wanted.items()
    sys.exit(measure(part, cases, Effort(options.quick, options.rounds), page))


def each(wanted: dict[str, list[str]], options: argparse.Namespace) -> int:
    """Every part in a process of its own; 1 if one failed."""
    begun, failed = time.monotonic(), False
    print(f"{HEAD[0]:<58} {HEAD[1]:>12}   {HEAD[2]:<17} {'':>3}  {HEAD[4]}")
    for part, cases in wanted.items():
        command = [sys.executable, "-m", "benchmarks", *(f"{part}:{case}" for case in cases)]
        command += ["--quick"] if options.quick else []
        command += ["--rounds", str(options.rounds)] if options.rounds else []
        command += ["--page", str(options.page)] if options.page else []
        failed |= subprocess.run(command, check=False).returncode != 0
        warn(f"{part} is done, {(time.monotonic() - begun) / 60:.1f} minutes after the start")
    return int(failed)


if __name__ == "__main__":
    main()
