"""A limit on concurrent calls on simulated devices."""

from __future__ import annotations

import collections
from typing import Any

import jax


class InFlight:
    """On several CPU devices, waits for the call before the last; otherwise does nothing.

    XLA's CPU client runs the simulated devices of a process on one pool of threads. With many
    queued calls, a device may find no thread for its part of a collective, and XLA ends the process
    after 40 seconds (seen with 8 devices and an unbounded queue; never with 16 calls or fewer).
    Real accelerators have one queue each, so they need no limit.
    """

    def __init__(self, placement: Any) -> None:
        device = next(iter(placement.everywhere.device_set))
        self._limited = placement.parts > 1 and device.platform == "cpu"
        self._calls: collections.deque[jax.Array] = collections.deque()

    def add(self, result: jax.Array) -> None:
        """Adds a call, by one of its results."""
        if self._limited:
            self._calls.append(result)
            if len(self._calls) > 1:
                self._calls.popleft().block_until_ready()
