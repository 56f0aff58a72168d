"""Probes: candidates for the next stage, each trained for a few steps at equal FLOPs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation
from trainkit._core.processes import alone
from trainkit.cost import program_flops
from trainkit.placement.shares import from_shares, joined_shapes
from trainkit.progressive.stages.pace import begin_decay, lower
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.transition.switch import Transition
from trainkit.step.state import TrainState

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Probe:
    """How to compare the candidates for the next stage.

    "Do not grow" and "only lower the learning rate" are candidates too. Each starts from the same
    state, draws from the same examples and gets the same FLOPs: a model that costs twice as much
    takes half the steps. A change wins only if it beats "do not grow" by more than `errors`
    standard errors of the paired difference over validation batches.

    Attributes:
      steps: the number of steps of the current model; others get the same FLOPs.
      batches: the number of validation batches for the score, at least 2.
      lower: the factor of "only lower the learning rate"; `None` omits this candidate.
      errors: the number of standard errors by which a change must be better.
      anneal: whether each candidate's learning rate falls to 0 over its steps. Without it, the
        candidate with the lowest rate looks too good, because the loss drops when the rate does.
      unroll: whether to unroll the loop over steps. XLA on CPUs runs convolutions in a loop many
        times slower.
    """

    steps: int = 40
    batches: int = 8
    lower: float | None = 0.3
    errors: float = 2.0
    anneal: bool = False
    unroll: bool = False

    def __post_init__(self) -> None:
        validation.integer("steps", self.steps, "Probe")
        hint = "the spread over batches says whether a difference is more than chance"
        validation.integer("batches", self.batches, "Probe", least=2, hint=hint)
        if self.lower is not None:
            validation.number("lower", self.lower, "Probe", above=0, below=1, hint="or None")
        validation.number("errors", self.errors, "Probe", least=0, finite=False)
        validation.flag("anneal", self.anneal, "Probe")
        validation.flag("unroll", self.unroll, "Probe")


@dataclasses.dataclass(frozen=True)
class Price:
    """The price of size: the objective is loss + per_parameter · N + per_flop · FLOPs per example.

    Attributes:
      per_parameter: the decrease in loss that a parameter must bring.
      per_flop: the decrease in loss that a training FLOP per example must bring.
    """

    per_parameter: float = 0.0
    per_flop: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            validation.number(name, value, "Price", least=0)

    def of(self, prepared: PreparedStage) -> float:
        """The price of a stage's model."""
        per_example = prepared.flops_per_step / prepared.per_batch
        return self.per_parameter * prepared.parameters + self.per_flop * per_example


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One candidate of a probe.

    Attributes:
      kind: "stay", "lower" or "grow".
      transition: the growth; `None` for the other kinds.
      alternative: the index of its stage in the next level; -1 for the other kinds.
      steps: the number of steps it is trained for.
      flops: the FLOPs of these steps.
      price: the price of its size.
    """

    kind: Literal["stay", "lower", "grow"]
    transition: Transition | None
    alternative: int
    steps: int
    flops: float
    price: float

    @property
    def name(self) -> str:
        """Its name in reports."""
        if self.transition is None:
            names = {"stay": "do not grow", "lower": "only lower the learning rate"}
            return names.get(self.kind, self.kind)
        return f"{self.transition.big.stage.how} → {self.transition.big.name}"


class ProbeProgram:
    """All candidates of one stage, trained and scored in one compiled program."""

    def __init__(
        self, current: PreparedStage, transitions: Sequence[Transition], probe: Probe, price: Price
    ):
        if current.step.placement.name in ("pmap", "shard_map", "periodic"):
            raise ValueError(
                f"A probe runs its candidates in one program, which placement="
                f"{current.step.placement.name!r} does not allow; use 'single', 'jit' or 'fsdp'."
            )
        if current.step.steps_per_call != 1:
            raise ValueError("A probe needs steps_per_call=1.")
        self.current, self.probe = current, probe
        budget = probe.steps * current.flops_per_step
        found = [Candidate("stay", None, -1, probe.steps, budget, price.of(current))]
        if probe.lower is not None:
            found.append(Candidate("lower", None, -1, probe.steps, budget, price.of(current)))
        for alternative, transition in enumerate(transitions):
            each = transition.big.flops_per_step
            steps = max(1, round(budget / each))
            found.append(
                Candidate(
                    "grow", transition, alternative, steps, steps * each, price.of(transition.big)
                )
            )
        self.candidates = tuple(found)

    def stage_of(self, candidate: Candidate) -> PreparedStage:
        """The stage that a candidate trains."""
        return self.current if candidate.transition is None else candidate.transition.big

    def batches(self) -> tuple[list[PyTree], list[PyTree]]:
        """The stacked training batches and the stacked validation batches of each candidate.

        The training batches follow the current position of the data, which does not move.
        """
        training, validation = [], []
        for candidate in self.candidates:
            prepared = self.stage_of(candidate)
            position, drawn = self.current.data.position, []
            if prepared.data.size != self.current.data.size:
                position = prepared.data.position
            for _ in range(candidate.steps):
                batch, position = prepared.data.draw(position)
                drawn.append(batch)
            training.append(_stack(drawn))
            validation.append(_stack(self._validation(prepared)))
        return training, validation

    def _validation(self, prepared: PreparedStage) -> list[PyTree]:
        batches = prepared.evaluation.on_host()
        size = jax.tree.leaves(batches[0])[0].shape
        same = [b for b in batches if jax.tree.leaves(b)[0].shape == size]
        if len(same) < 2:
            raise ValueError(
                f"A probe needs at least 2 validation batches of one size; there are {len(same)}."
            )
        return same[: self.probe.batches]

    def program(self, state: TrainState, training: Any, validation: Any) -> list[jax.Array]:
        """For each candidate its losses, an array [validation batches]; a pure function."""
        return [
            self._one(candidate, state, batches, held)
            for candidate, batches, held in zip(self.candidates, training, validation, strict=True)
        ]

    def _one(
        self, candidate: Candidate, state: TrainState, batches: PyTree, held: PyTree
    ) -> jax.Array:
        prepared = self.stage_of(candidate)
        if candidate.transition is not None:
            state = prepared.step.prepared(candidate.transition.apply(state))
        pace = state.opt_state
        if candidate.kind == "lower":
            assert self.probe.lower is not None
            pace = lower(pace, self.probe.lower)
        if self.probe.anneal:
            pace = begin_decay(pace, at=pace.step, steps=candidate.steps)
        state = state.replace(opt_state=pace)
        body: Callable = lambda s, b: (prepared.step.program(s, b)[0], None)
        state, _ = jax.lax.scan(body, state, batches, unroll=self.probe.unroll or 1)

        def score(_: None, batch: PyTree) -> tuple[None, jax.Array]:
            loss = prepared.model.evaluation(state.params, state.model_state, batch, state.rng)
            return None, loss.total / loss.weight

        return jax.lax.scan(score, None, held, unroll=self.probe.unroll or 1)[1]

    def compile(self) -> ProbeProgram:
        """Compiles the program, and returns `self`."""
        training, validation = self.batches()
        # Replicated in one process too, so that its program is that of several processes.
        whole = joined_shapes(_shapes(training), 1, self._everywhere)
        arguments = (self.current.like, whole, _shapes(validation))
        self._program = jax.jit(self.program).lower(*arguments).compile()
        self.flops = program_flops(self.program, arguments, self._program)
        return self

    @property
    def _everywhere(self) -> jax.sharding.Sharding:
        return self.current.step.placement.everywhere

    def __call__(self, state: TrainState) -> dict[str, Any]:
        """Runs the program; returns the result of `decide`."""
        training, validation = self.batches()
        if not alone():
            training = [from_shares(each, self._everywhere, 1) for each in training]
        losses = self._program(state, training, validation)
        return decide(self.candidates, [np.asarray(x, np.float64) for x in losses], self.probe)


def decide(
    candidates: Sequence[Candidate], losses: Sequence[np.ndarray], probe: Probe
) -> dict[str, Any]:
    """The best candidate by loss + price, of those that beat "do not grow" significantly.

    Args:
      candidates: "do not grow" first.
      losses: for each candidate a float64 array [validation batches].
      probe: the settings.

    Returns:
      {"candidates": [{name, kind, alternative, steps, flops, loss, price, score, gain, error}],
       "best": index}, JSON values. `gain` is relative to "do not grow"; `error` is its standard
      error.
    """
    stay = losses[0]
    rows: list[Mapping[str, Any]] = []
    best, best_score = 0, float(stay.mean()) + candidates[0].price
    for number, (candidate, loss) in enumerate(zip(candidates, losses, strict=True)):
        paired = stay - loss
        error = float(paired.std(ddof=1) / math.sqrt(len(paired))) if number else 0.0
        price = candidate.price - candidates[0].price
        score = float(loss.mean()) + candidate.price
        gain = float(paired.mean()) - price
        rows.append(
            {
                "name": candidate.name,
                "kind": candidate.kind,
                "alternative": candidate.alternative,
                "steps": candidate.steps,
                "flops": candidate.flops,
                "loss": float(loss.mean()),
                "price": candidate.price,
                "score": score,
                "gain": gain,
                "error": error,
            }
        )
        # Comparisons with NaN are false: a candidate that diverged never wins.
        if number and gain > probe.errors * error and score < best_score:
            best, best_score = number, score
    return {"candidates": rows, "best": best}


def _stack(batches: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.asarray(x).dtype), tree)
