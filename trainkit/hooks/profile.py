"""A trace of a few steps, for a profiler's viewer."""

from __future__ import annotations

import os
import pathlib
import re

import jax

from trainkit._core import validation
from trainkit.loop.hooks import Change, Now


class Profile:
    """Records what host and devices do in the steps `first` < n ≤ `last`, and writes a trace.

    The folder then has a `perfetto_trace.json.gz` for ui.perfetto.dev, and an `xplane.pb` for
    XProf and TensorBoard. A trace grows by megabytes a step: ten steps are usually enough. Each of
    several processes writes a folder of its own. A run that ends earlier writes what there is.

    Args:
      first: the step after which recording begins; choose one after the compilation.
      last: the step after which it ends.
      folder: where the trace goes, such as a folder beside the run's.

    Raises:
      TypeError, ValueError: `last` is not after `first`.

    >>> Profile(100, 110, "runs/mnist/profile").last
    110
    """

    alike = True

    def __init__(self, first: int, last: int, folder: str | os.PathLike):
        validation.integer("Profile: first", first, least=0)
        validation.integer("Profile: last", last, least=1)
        if last <= first:
            raise ValueError(
                f"Profile: last={last} must be after first={first}, such as "
                f"Profile({first}, {first + 10}, folder)."
            )
        self.first, self.last = first, last
        self.folder = pathlib.Path(folder)
        self._recording = self._done = False

    @classmethod
    def of(cls, steps: str, folder: str | os.PathLike) -> Profile:
        """From what is typed on a command line: `100:110`.

        Raises:
          ValueError: it is not two step numbers.
        """
        found = re.fullmatch(r"(\d+):(\d+)", steps)
        if found is None or int(found[2]) <= int(found[1]):
            raise ValueError(
                f"--profile {steps!r} must be two steps, the later one last, such as 100:110."
            )
        return cls(int(found[1]), int(found[2]), folder)

    def __call__(self, now: Now) -> Change | None:
        if self._recording and now.steps >= self.last:
            jax.block_until_ready(now.state)
            self.close()
            return Change(event={"event": "profiled", "folder": str(self.folder)})
        if not (self._recording or self._done) and self.first <= now.steps < self.last:
            # What was dispatched earlier does not belong to the trace.
            jax.block_until_ready(now.state)
            alone = jax.process_count() == 1
            folder = self.folder if alone else self.folder / f"process-{jax.process_index()}"
            jax.profiler.start_trace(folder, create_perfetto_trace=True)
            self._recording = True
        return None

    def close(self) -> None:
        """Ends the recording, if there is one, and writes the trace."""
        if self._recording:
            self._recording, self._done = False, True
            jax.profiler.stop_trace()
