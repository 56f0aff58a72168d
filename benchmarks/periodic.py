"""Training with few exchanges against synchronous training, at equal examples. Prints a table.

    python -m benchmarks.periodic                # some eleven minutes of one core
    python -m benchmarks.periodic --seeds 1 --steps 100 --rates 0.012

The character transformer of `trainkit train progressive_lm` (width 32, two blocks, Shakespeare),
on four simulated devices. Every run sees the same 16 examples a step, four on each device, with
AdamW; the rate warms up, and falls to 0 over the last fifth. Methods:

  synchronous   gradients are summed at every step ("shard_map")
  averaged, H   "periodic": the mean of parameters and moments after every H steps
  DiLoCo, H     "periodic" with lookahead: Nesterov's outer step, rate 0.7 and momentum 0.9

Each method has the best of some learning rates, by another seed than those of the table; lower and
higher ones are tried until there is a worse one on either side. Columns: the rate; validation loss,
mean and standard deviation over seeds; how far above synchronous training, seed by seed; and what
each device sends a step, in a ring.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
import trainkit.transforms as tt
from experiments.progressive_lm.grid import Corpus
from experiments.progressive_lm.model import Transformer
from trainkit._core.units import nbytes
from trainkit.cost import forecast
from trainkit.data import Sampler, shakespeare
from trainkit.progressive.stages.pace import begin_decay, paced

DEVICES = 4
LENGTH, BATCH = 32, 16
TUNING = 100  # the seed that chooses the rates
CALL = 50  # steps a call of synchronous training
ROUNDS = (1, 10, 50)


class Method(NamedTuple):
    """A row of the table.

    Attributes:
      name: what it is.
      period: steps between two exchanges; `None`: synchronous.
      outer: whether it takes DiLoCo's outer step.
    """

    name: str
    period: int | None
    outer: bool = False

    def rule(self) -> optax.GradientTransformation:
        """AdamW with a rate of 1, which the pace multiplies."""
        tx: Any = tt.adamw(1.0, weight_decay=0.1)
        if self.outer:
            tx = tt.lookahead(tx, self.period, outer=tt.nesterov(0.7, 0.9))
        return paced(tx, warmup=20)


METHODS = (
    Method("synchronous", None),
    *(Method(f"averaged, H = {h}", h) for h in ROUNDS),
    *(Method(f"DiLoCo, H = {h}", h, outer=True) for h in ROUNDS),
)


@functools.cache
def corpus() -> Corpus:
    """Training windows, and 256 of the validation part."""
    return Corpus.of(shakespeare(), LENGTH, BATCH)


class Trained:
    """One method: its compiled step and its runs."""

    def __init__(self, method: Method):
        module = Transformer(corpus().vocabulary, 32, 2, head_size=8)
        loss = optax.softmax_cross_entropy_with_integer_labels
        self.model = trainkit.from_linen(module, loss)
        self.tx, self.per_call = method.rule(), method.period or CALL
        self.step = trainkit.make_train_step(
            self.model, self.tx,
            placement="periodic" if method.period else "shard_map",
            devices=DEVICES, steps_per_call=self.per_call, norms=False,
        )  # fmt: skip
        self.evaluation = trainkit.make_eval_step(self.model)

    def run(self, seed: int, rate: float, steps: int) -> float:
        """The validation loss at the end of a run."""
        data = Sampler(corpus().sampler.data, BATCH, seed=seed)
        state = self.model.state(self.tx, data.draw(data.position)[0], rng=seed)
        tail = steps // 5
        pace = state.opt_state._replace(level=jnp.float32(rate))
        state = state.replace(opt_state=begin_decay(pace, at=steps - tail, steps=tail))
        state = self.step.place(state)
        for _ in range(steps // self.per_call):
            drawn = [next(data) for _ in range(self.per_call)]
            batch = drawn[0]
            if self.per_call > 1:
                batch = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
            state, _ = self.step(state, batch)
        return self.evaluation.over(state, [corpus().validation])["loss"]

    def sent(self) -> float:
        """Bytes that a device sends a step."""
        batch = corpus().sampler.draw(corpus().sampler.position)[0]
        state = jax.eval_shape(lambda: self.model.state(self.tx, batch, rng=0))
        several = (self.per_call,) if self.per_call > 1 else ()
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*several, *x.shape), x.dtype), batch)
        return forecast(self.step, state, shapes).sent / self.per_call


def best_rate(trained: Trained, rates: Sequence[float], steps: int) -> float:
    """The best of some rates, and of lower and higher ones where it is at their edge."""
    if len(rates) == 1:
        return rates[0]
    found = {rate: trained.run(TUNING, rate, steps) for rate in rates}
    while True:
        best = min(found, key=lambda rate: found[rate])
        if min(found) < best < max(found):
            return best
        further = best / 2 if best == min(found) else 2 * best
        found[further] = trained.run(TUNING, further, steps)


def main(arguments: Sequence[str] | None = None) -> None:
    """Tunes, runs and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="a multiple of 50")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003, 0.006, 0.012, 0.024])
    options = parser.parse_args(arguments)
    if options.steps < CALL or options.steps % CALL:
        parser.error(f"--steps must be a multiple of {CALL}.")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(
        "| method | rate | validation loss | above synchronous | sent a step | share |\n"
        "|---|--:|--:|--:|--:|--:|"
    )
    first: np.ndarray | None = None
    whole = 0.0
    for method in METHODS:
        trained = Trained(method)
        rate = best_rate(trained, options.rates, options.steps)
        losses = np.array([trained.run(s, rate, options.steps) for s in range(options.seeds)])
        sent = trained.sent()
        if first is None:
            first, whole = losses, sent
        above = "" if first is losses else _spread(losses - first)
        print(
            f"| {method.name} | {rate:g} | {_spread(losses)} | {above} | {nbytes(sent)} | "
            f"{sent / whole:.3g} |",
            flush=True,
        )


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main()
