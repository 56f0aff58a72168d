"""Checks that a reproducer fails without this package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence

# Many programs in one process, each in its own namespace: starting JAX is most of the cost.
RUNNER = """
import json, signal, sys, warnings
sys.modules['trainkit'] = None  # importing it is an error
import jax
warnings.simplefilter('ignore')
def late(*_):
    raise SystemExit('it takes more than two minutes')
signal.signal(signal.SIGALRM, late)
out = []
kept, sys.stdout = sys.stdout, sys.stderr
for code in json.load(sys.stdin):
    jax.config.update('jax_enable_x64', False)
    signal.alarm(120)
    try:
        exec(compile(code, 'reproducer', 'exec'), {'__name__': 'reproducer'})
        out.append('')
    except BaseException as error:
        out.append((type(error).__name__ + ': ' + str(error))[:500])
    signal.alarm(0)
print(json.dumps(out), file=kept)
"""
# Errors of the program itself, not of the rule that it shows.
OWN = re.compile(r"(NameError|SyntaxError|IndentationError|ImportError|ModuleNotFoundError"
                 r"|SystemExit|KeyboardInterrupt)\b")  # fmt: skip


def errors(programs: Sequence[str]) -> list[str]:
    """For each program "" if it succeeds, else the error's name and message.

    >>> errors(["assert 1 + 1 == 3", "x = 1"])
    ['AssertionError: ', '']
    """
    found = [""] * len(programs)
    groups: dict[str, list[int]] = {}
    for i, program in enumerate(programs):
        asked = re.search(r"os\.environ\['XLA_FLAGS'\] = '(.*)'", program)
        groups.setdefault(asked[1] if asked else "", []).append(i)
    for flags, which in groups.items():
        for i, error in zip(which, _together([programs[i] for i in which], flags), strict=True):
            found[i] = error
    return found


def _together(programs: list[str], flags: str) -> list[str]:
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(programs), env=env, check=False,
        capture_output=True, text=True, cwd=os.sep,
    )  # fmt: skip
    if done.returncode == 0:
        return [str(x) for x in json.loads(done.stdout.splitlines()[-1])]
    if len(programs) > 1:  # one of them crashed the process
        return [_together([program], flags)[0] for program in programs]
    return [f"exit status {done.returncode}: {done.stderr[-300:]}"]


def shows(error: str) -> bool:
    """Whether a program that ends with this error has shown its violation."""
    return bool(error) and not OWN.match(error)
