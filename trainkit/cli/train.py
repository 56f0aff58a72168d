"""`trainkit train EXPERIMENT --option value ...`.

An experiment is a folder `experiments/NAME` with a `train.py`, which has

    Config        a dataclass: its fields are the options, its docstring the help
    run(config)   what is done with it

and whose own docstring begins with a line that says what it is.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from trainkit._core.kept_programs import keep_compiled
from trainkit._core.processes import alone, explain, leave
from trainkit.cli.joining import join
from trainkit.cli.main import unknown

FOLDER, MODULE = "experiments", "train.py"


def main(arguments: Sequence[str]) -> int:
    """Runs an experiment with its options; returns the exit status."""
    found = experiments()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(found))
        return 0
    name, options = arguments[0], list(arguments[1:])
    if name not in found:
        if name.startswith("-"):
            message = f"The experiment comes first: trainkit train NAME {name} ..."
        else:
            message = unknown("experiment", name, list(found))
        print(f"{message}\n`trainkit train --help` says what each is.", file=sys.stderr)
        return 2
    import tyro

    join()
    experiment = experiment_of(name, found)
    try:
        config = tyro.cli(experiment.Config, args=options, prog=f"trainkit train {name}")
        keep_programs(Path(getattr(config, "out", None) or "runs/any"))
        experiment.run(config)
    except (ValueError, OSError) as error:
        # A message that somebody wrote for the user needs no traceback; anything else does.
        if os.environ.get("TRAINKIT_TRACEBACK") or not _ours(error.__traceback__, found[name]):
            raise
        said = explain(error) or _with_flags(str(error), experiment.Config)
        print(f"Error: {said}", file=sys.stderr)
        if not alone():
            leave(2)
        return 2
    return 0


def keep_programs(out: Path) -> None:
    """Keeps compiled programs beside a run's folder, for all runs there; or says why it cannot."""
    try:
        keep_compiled(out.parent / ".compiled")
    except OSError as error:
        print(f"Compiled programs are not kept: {error}", file=sys.stderr)


def _with_flags(message: str, config: type) -> str:
    """A message that names arguments, with the options of the command line in their place."""
    for field in dataclasses.fields(config):
        flag = f"--{field.name.replace('_', '-')}"
        message = re.sub(rf"\bas {field.name}=(?=[.,]( |$))", f"with {flag}", message)
        message = re.sub(rf"\b{field.name}=True", flag, message)
        message = re.sub(rf'\b{field.name}="([^"]*)"', rf"{flag} '\1'", message)
        message = re.sub(rf"\b{field.name}=(?=[\w.]|$)", f"{flag} ", message)
    return message


def experiments() -> dict[str, Path]:
    """Name -> folder of each experiment there is: our own, of the present folder, of those above.

    Nobody else's in a folder above, such as /tmp, is run, and none in the place of our own.
    """
    here = Path.cwd()
    package = Path(__file__).resolve().parents[1]
    # A wheel has our own inside the package, a clone beside it.
    ours = package if (package / FOLDER).is_dir() else package.parent
    roots = [ours, here, *here.parents]
    found: dict[str, Path] = {}
    for number, root in enumerate(roots):
        for module in sorted((root / FOLDER).glob(f"*/{MODULE}")):
            if number < 2 or all(map(_is_ours_or_the_systems, (root / FOLDER, module))):
                found.setdefault(module.parent.name, module.parent)
    return found


def _is_ours_or_the_systems(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid in (0, os.getuid())


def experiment_of(name: str, found: Mapping[str, Path]) -> ModuleType:
    """Imports `experiments.NAME.train` of its folder, whatever else is called `experiments`."""
    folder = found[name].parent
    package = sys.modules.get(FOLDER)
    if package is None:
        package = sys.modules[FOLDER] = ModuleType(FOLDER)
        package.__path__ = []
    package.__path__ = [str(folder), *(path for path in package.__path__ if path != str(folder))]
    return importlib.import_module(f"{FOLDER}.{name}.train")


def experiment_with(function: str, what: str, name: str, found: Mapping[str, Path]) -> ModuleType:
    """Imports an experiment that has a function of this name, such as `programs(config, **where)`.

    Raises:
      ValueError: it has none; the message names those that have one. `what` needs it.
    """
    experiment, own = experiment_of(name, found), function.partition("(")[0]
    if hasattr(experiment, own):
        return experiment
    able = [other for other in found if hasattr(experiment_of(other, found), own)]
    others = f"Experiments with one: {', '.join(able)}." if able else "No experiment has one."
    raise ValueError(f"{name} has no function {function}, which {what} needs. {others}")


def _help(found: dict[str, Path]) -> str:
    width = max((len(name) for name in found), default=0)
    lines = [f"  {name:<{width}}  {_first_line(folder)}" for name, folder in found.items()]
    listed = "\n".join(lines) or "  none: make experiments/NAME/train.py"
    return (
        "usage: trainkit train EXPERIMENT [--option value ...]\n\n"
        f"experiments:\n{listed}\n\n"
        "`trainkit train EXPERIMENT --help` shows an experiment's options.\n"
        "A run that was stopped goes on where it was when its command is given again."
    )


def _first_line(folder: Path) -> str:
    """The first line of its docstring, read without importing it."""
    docstring = ast.get_docstring(ast.parse((folder / MODULE).read_text(encoding="utf-8")))
    return (docstring or "").split("\n")[0]


def _ours(traceback: TracebackType | None, experiment: Path) -> bool:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    file = Path(traceback.tb_frame.f_code.co_filename).resolve()
    homes = (Path(__file__).resolve().parents[1], experiment.resolve().parent)
    # A dataclass's generated __init__ has no file, but calls a __post_init__ that has one.
    return any(home in file.parents for home in homes)
