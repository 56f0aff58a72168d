"""Where an aimed kill strikes, and the process that it strikes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

from benchmarks.reliability.run import train

# Where an aimed kill strikes: a function of ours or of Orbax, at one of its calls.
AIMS = {
    "writing the info of a step": ("trainkit.loop.saved.info", "write_info"),
    "copying a state to save": ("trainkit.loop.checkpoint", "on_host"),
    "moving a step away": ("os", "replace"),
    "deleting a step": ("shutil", "rmtree"),
    "finishing a step": ("os", "rename"),
    "evaluating": ("benchmarks.reliability.run", "evaluate"),
    "writing a row": ("trainkit.loop.metrics_log.MetricsLog", "_append"),
    "noting that it has saved": ("trainkit.loop.run_folder.RunFolder", "saved"),
    "writing a file whole": ("trainkit._core.run_files", "open_new"),
}


def aim(where: str, call: int) -> None:
    """Has this process killed inside the `call`-th call of a function."""
    home, name = AIMS[where]
    import trainkit.loop.checkpoint
    import trainkit.loop.saved.info_handler

    try:
        owner = importlib.import_module(home)
    except ModuleNotFoundError:
        module, _, inside = home.rpartition(".")
        owner = getattr(importlib.import_module(module), inside)
    whole, calls = getattr(owner, name), [0]

    def struck(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            if name == "rmtree":  # half way: a file of it is gone
                for file in list(Path(args[0]).rglob("*"))[:3]:
                    if file.is_file():
                        file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args, **kwargs)

    setattr(owner, name, struck)
    # What was imported by name.
    for module in (trainkit.loop.checkpoint, trainkit.loop.saved.info_handler):
        if getattr(module, name, None) is whole:
            setattr(module, name, struck)


if __name__ == "__main__":
    # python -m benchmarks.reliability.aims OUT [WHERE CALL]
    out, *struck = sys.argv[1:]
    if struck:
        aim(struck[0], int(struck[1]))
    train(Path(out))
