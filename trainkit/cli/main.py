"""The command `trainkit`: what the first word says is done by a module of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from trainkit._core.validation import near
from trainkit._core.versions import VERSION

# word -> the module whose `main(arguments) -> int` does it, imported when it is asked for; how it
# is called; what it does.
COMMANDS = {
    "train": ("trainkit.cli.train", "train EXPERIMENT", "train something and report about it"),
    "plan": (
        "trainkit.cli.plan",
        "plan EXPERIMENT",
        "say what a run needs on other devices",
    ),
    "advise": (
        "trainkit.cli.advise",
        "advise EXPERIMENT",
        "say whether growing pays, from short runs",
    ),
    "report": ("trainkit.cli.report", "report RUN ...", "show a run, or compare several"),
    "devices": ("trainkit.cli.devices", "devices", "show what there is to train on"),
    "launch": (
        "trainkit.cli.launch",
        "launch -n 2 -- ...",
        "run a command in several processes that train one model",
    ),
    "checkpoints": ("trainkit.cli.checkpoints", "checkpoints DIR", "look into a run's checkpoints"),
    "grow": ("trainkit.cli.grow", "grow SRC ...", "grow a checkpoint into a bigger model"),
    "laws": ("trainkit.cli.laws", "laws RULE", "check an update rule or a schedule"),
}

HELP = """\
usage: trainkit COMMAND ...

commands:
{commands}

begin with:
  trainkit train mnist
  trainkit train mnist --help

`trainkit COMMAND --help` says more; `trainkit --version` says which version this is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (that of the process by default) and returns its exit status.

    >>> main(["--version"])
    trainkit 0.1.0
    0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        listed = [f"  {usage:<19} {what}" for _, usage, what in COMMANDS.values()]
        print(HELP.format(commands="\n".join(listed)))
        return 0
    if arguments[0] == "--version":
        print(f"trainkit {VERSION}")
        return 0
    word, rest = arguments[0], arguments[1:]
    if word not in COMMANDS:
        print(unknown("command", word, list(COMMANDS)), file=sys.stderr)
        return 2
    try:
        return importlib.import_module(COMMANDS[word][0]).main(rest) or 0
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """A message about a name that is none of those known, with the nearest of them."""
    listed = ", ".join(known) or "none here"
    return f"There is no {what} {name!r}{near(name, known) or '.'} There are: {listed}."
