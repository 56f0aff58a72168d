"""Many runs in one program: seeds and learning rates side by side, from small to large models.

Every run of a (model, operator) has its own seed and learning rate; `vmap` trains them together, or
`lax.map` in turn, so that tuning costs one compilation. FLOPs are those of one run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.phases import CHUNK
from trainkit.cost import count_flops
from trainkit.data import CharCorpus
from trainkit.data.staged import staged
from trainkit.progressive import Data, Stage
from trainkit.progressive.stages.pace import NEVER
from trainkit.progressive.stages.prepared import PreparedStage, Recipe
from trainkit.progressive.transition.grow import grown
from trainkit.progressive.transition.switch import Transition

PyTree = Any
Watch = Callable[[np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training text, examples to evaluate on, and the sizes of a training batch."""

    text: CharCorpus
    validation: PyTree
    length: int
    batch: int

    @classmethod
    def of(cls, text: CharCorpus, length: int, batch: int, held: int = 256) -> Corpus:
        """The corpus with `held` windows of its validation part to evaluate on."""
        train, validation, _ = text.split()
        windows = validation.windows(length)
        places = np.linspace(0, len(windows) - 1, held).astype(np.int64)
        return cls(train, jax.tree.map(jnp.asarray, windows[places]), length, batch)

    @functools.cached_property
    def train(self) -> jax.Array:
        """The training text on the device."""
        return jnp.asarray(self.text.tokens)

    @property
    def vocabulary(self) -> int:
        """How many characters there are."""
        return len(self.text.vocabulary)

    def window(self, starts: jax.Array) -> PyTree:
        """The batch of windows that begin at some places."""
        window = self.train[starts[:, None] + jnp.arange(self.length + 1)]
        return {"inputs": window[:, :-1], "targets": window[:, 1:]}


@dataclasses.dataclass(frozen=True)
class Grid:
    """What all runs share.

    Attributes:
      corpus: the data.
      tx: the transformation, with a learning rate of 1.
      seeds: of the runs.
      in_turn: whether they are trained one after another. Under `vmap` both branches of a `cond`
        are computed at every step, so a rule that refreshes something now and then (SOAP) would
        do so always.
    """

    corpus: Corpus
    tx: optax.GradientTransformation
    seeds: Sequence[int]
    in_turn: bool = False

    @functools.cached_property
    def recipe(self) -> Recipe:
        """For `PreparedStage`: stages of models."""
        return Recipe(
            build=lambda m: trainkit.from_linen(m, optax.softmax_cross_entropy_with_integer_labels),
            tx=self.tx,
            data=staged(self.corpus.text, self.corpus.batch),
            validation=[self.corpus.validation],
            grow=grown,
            warmup=20,
        )

    def prepared(self, model: Transformer, **stage: Any) -> PreparedStage:
        """A model made ready; `stage` are options of `Stage`."""
        data = Data(sequence_length=self.corpus.length)
        return PreparedStage(self.recipe, Stage(model, data=data, **stage), 0)

    def at_length(self, length: int) -> Grid:
        """The same with training examples of another length."""
        if length == self.corpus.length:
            return self
        return dataclasses.replace(self, corpus=dataclasses.replace(self.corpus, length=length))

    def sized(self, model: Transformer) -> Sized:
        """A model with what all of its runs need."""
        prepared = self.prepared(model)
        return Sized(
            prepared, self.flops(prepared), self.trainer(prepared), self.evaluator(prepared)
        )

    def fresh(self, prepared: PreparedStage, rates: Sequence[float]) -> PyTree:
        """States from scratch, [rates, seeds]."""
        example = prepared.one_batch

        def one(rate: jax.Array, seed: jax.Array) -> PyTree:
            state = prepared.model.state(self.recipe.paced, example, jax.random.key(seed))
            return state.replace(opt_state=state.opt_state._replace(level=rate))

        over_seeds = jax.vmap(one, (None, 0))
        fresh = jax.jit(jax.vmap(over_seeds, (0, None)))
        return fresh(jnp.asarray(rates, jnp.float32), jnp.asarray(self.seeds, jnp.int32))

    def flops(self, prepared: PreparedStage) -> float:
        """FLOPs of one step of one run."""
        return count_flops(prepared.step.program, prepared.like, prepared.batch)

    def trainer(self, prepared: PreparedStage) -> Trainer:
        """`(states, steps) -> states`, steps being a multiple of `CHUNK`."""
        program, corpus = prepared.step.program, self.corpus

        @jax.jit
        def chunk(states: PyTree, starts: jax.Array) -> tuple[PyTree, jax.Array]:
            def one(state: PyTree, seed_starts: jax.Array) -> tuple[PyTree, jax.Array]:
                def body(state: PyTree, at: jax.Array) -> tuple[PyTree, jax.Array]:
                    state, metrics = program(state, corpus.window(at))
                    return state, metrics["loss"]

                state, losses = jax.lax.scan(body, state, seed_starts)
                return state, losses.mean()

            # Learning rates share the examples of their seed.
            if self.in_turn:
                seeds = lambda rate: jax.lax.map(lambda run: one(*run), (rate, starts))
                return jax.lax.map(seeds, states)
            return jax.vmap(jax.vmap(one), (0, None))(states, starts)

        return Trainer(chunk, self._starts)

    def _starts(self, at: int) -> np.ndarray:
        """Where the windows of CHUNK steps begin, [seeds, CHUNK, batch]; by seed and step only."""
        last = len(self.corpus.train) - self.corpus.length - 1
        return np.stack(
            [
                np.random.default_rng([seed, at]).integers(0, last, (CHUNK, self.corpus.batch))
                for seed in self.seeds
            ]
        )

    def evaluator(self, prepared: PreparedStage) -> Callable[[PyTree], np.ndarray]:
        """`states -> validation losses [rates, seeds]`."""
        model, held = prepared.model, self.corpus.validation

        def one(state: PyTree) -> jax.Array:
            # A part at a time: all runs are in memory at once.
            parts = jax.tree.map(lambda x: x.reshape(-1, 32, *x.shape[1:]), held)

            def sums(part: PyTree) -> tuple[jax.Array, jax.Array]:
                loss = model.evaluation(state.params, state.model_state, part, state.rng)
                return loss.total, loss.weight

            total, weight = jax.lax.map(sums, parts)
            return total.sum() / weight.sum()

        run = jax.jit(jax.vmap(jax.vmap(one)))
        return lambda states: np.asarray(run(states), np.float64)

    def grow(self, small: PreparedStage, big: PreparedStage, states: PyTree) -> PyTree:
        """The grown states of all runs."""
        return jax.jit(jax.vmap(jax.vmap(Transition(small, big).apply)))(states)

    def decaying(self, states: PyTree, steps: int) -> PyTree:
        """The states whose learning rate falls to 0 over the next steps."""
        pace = states.opt_state
        assert int(pace.decay_at.ravel()[0]) == NEVER
        length = jnp.full_like(pace.decay_steps, steps)
        return states.replace(opt_state=pace._replace(decay_at=pace.step, decay_steps=length))


@dataclasses.dataclass(frozen=True)
class Trainer:
    """`trainer(states, steps) -> states`."""

    chunk: Callable[[PyTree, jax.Array], tuple[PyTree, jax.Array]]
    starts: Callable[[int], np.ndarray]

    def __call__(self, states: PyTree, steps: int, watch: Watch | None = None) -> PyTree:
        """Trains all runs; `steps` is a multiple of `CHUNK`.

        `watch` is told the training losses, [rates, seeds], of every chunk.
        """
        begin = int(np.asarray(states.step).ravel()[0])
        for at in range(begin, begin + steps, CHUNK):
            chunk = self.chunk(states, jnp.asarray(self.starts(at)))
            states, losses = jax.block_until_ready(chunk)
            if watch is not None:
                watch(np.asarray(losses, np.float64))
        return states


class Sized(NamedTuple):
    """A model, the FLOPs of one step of one run, and the programs for all runs."""

    prepared: PreparedStage
    flops: float
    train: Trainer
    measure: Callable[[PyTree], np.ndarray]
