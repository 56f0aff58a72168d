"""How long a save holds up training: the time between two steps with a save in it, and without.

    python -m benchmarks.saving                  # a state of 50 MB, steps of about 20 ms
    python -m benchmarks.saving --megabytes 200 --every 50

`fit` trains a small model beside a state of the size asked for, and saves every so many steps. The
step waits on the host for the time asked for, as a device would keep it waiting, so that the cores
are free as they are beside an accelerator; `--busy` computes instead. Printed, over all saves:

  call     what `Checkpointer.save` took of the loop
  cpu      what it computed there: steadier on a machine with other work
  stall    the time from the step before a save to the step after it, over that of other steps
  slower   how much longer the other steps were while something was being written
  share    stall and slower, over the time of the steps between two saves: what saving costs

Ratios are of one run on the machine as it is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from trainkit.data import Sampler
from trainkit.loop.checkpoint import Checkpointer

LEAVES = 60


class Clock:
    """A step that takes its time, and knows when each call of it began."""

    def __init__(self, step: Any, seconds: float, busy: bool):
        self.step, self.seconds, self.busy = step, seconds, busy
        self.place, self.place_batch, self.compile = step.place, step.place_batch, step.compile
        self.steps_per_call = 1
        self.began: list[float] = []

    def __call__(self, state: Any, batch: Any) -> Any:
        self.began.append(time.perf_counter())
        state, metrics = self.step(state, batch)
        jax.block_until_ready(state.step)
        left = self.seconds - (time.perf_counter() - self.began[-1])
        if self.busy:
            while time.perf_counter() - self.began[-1] < self.seconds:
                np.linalg.norm(np.ones((64, 64)))
        elif left > 0:
            time.sleep(left)
        return state, metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--milliseconds", type=float, default=20, help="of a step")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--saves", type=int, default=8)
    parser.add_argument("--busy", action="store_true", help="compute in a step instead of waiting")
    options = parser.parse_args()
    # What is trained is small, so that a step costs little; the rest goes through it untouched.
    size = int(options.megabytes * 1e6 / 4 / LEAVES)
    draw = np.random.default_rng(0).normal
    held = {f"leaf{i}": jnp.asarray(draw(size=size), jnp.float32) for i in range(LEAVES)}

    def loss_fn(params: Any, model_state: Any, batch: Any, rng: Any) -> trainkit.Loss:
        return trainkit.Loss((params["w"] * batch).sum(), len(batch), model_state)

    tx = optax.adam(1e-3)
    step = trainkit.make_train_step(loss_fn, tx, donate=True, norms=False)
    clock = Clock(step, options.milliseconds / 1e3, options.busy)
    called: list[tuple[float, float]] = []
    save = Checkpointer.save

    def timed(self: Checkpointer, *args: Any, **more: Any) -> None:
        begin, cpu = time.perf_counter(), time.thread_time()
        save(self, *args, **more)
        called.append((time.perf_counter() - begin, time.thread_time() - cpu))

    # Replaced for this process alone: `fit` makes its `Checkpointer` by itself.
    Checkpointer.save = timed  # type: ignore[method-assign]
    state = trainkit.TrainState.create({"w": jnp.ones(8)}, tx, model_state=held)
    with tempfile.TemporaryDirectory() as folder:
        trainkit.fit(
            clock,
            state,
            Sampler(np.ones((64, 8), np.float32), 8),
            steps=options.every * (options.saves + 1),
            checkpoint_every=options.every,
            out=folder,
            progress=False,
            report=False,
        )
    gaps = np.diff(clock.began)
    at = [
        options.every * i - 1 for i in range(2, options.saves + 1)
    ]  # not the first, which imports
    quiet = statistics.median(np.concatenate([gaps[i - options.every // 2 : i] for i in at]))
    stalls = [gaps[i] - quiet for i in at]
    slower = [
        gaps[i + 1 : i + options.every // 2].sum() - quiet * (options.every // 2 - 1) for i in at
    ]
    period = options.every * quiet
    show = lambda name, values: print(
        f"{name:<8} {1e3 * statistics.median(values):8.1f} ms (largest {1e3 * max(values):.1f})  "
        f"{100 * statistics.median(values) / period:6.2f} % of {options.every} steps"
    )
    print(f"{options.megabytes:g} MB, steps of {1e3 * quiet:.1f} ms, {len(at)} saves")
    show("call", [seconds for seconds, _ in called[1:-1]])
    show("cpu", [seconds for _, seconds in called[1:-1]])
    show("stall", stalls)
    show("slower", slower)
    show("share", [a + b for a, b in zip(stalls, slower, strict=True)])


if __name__ == "__main__":
    main()
