"""How many calls may be under way at once on simulated devices."""

from __future__ import annotations

import collections
from typing import Any

import jax


class InFlight:
    """Waits for the call before the last, on several CPU devices; elsewhere does nothing.

    XLA's CPU client runs the simulated devices of a process on one pool of threads. With many
    calls queued, one device's share of a collective may find no thread left, and the process is
    ended after 40 seconds (seen with 8 devices and an unbounded queue; never with 16 calls or
    fewer). Real accelerators have a queue each and are never waited for.
    """

    def __init__(self, placement: Any) -> None:
        device = next(iter(placement.everywhere.device_set))
        self._limited = placement.parts > 1 and device.platform == "cpu"
        self._calls: collections.deque[jax.Array] = collections.deque()

    def add(self, result: jax.Array) -> None:
        """Notes a call by one of its results."""
        if self._limited:
            self._calls.append(result)
            if len(self._calls) > 1:
                self._calls.popleft().block_until_ready()
