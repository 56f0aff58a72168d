"""Choosing by trying: several ways on from one state, each for a few steps at equal FLOPs."""

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
    """How candidates are compared.

    "Do not grow" and "only lower the learning rate" are always among them. Each starts from the
    same state, sees the same examples and gets the same FLOPs: a model that is twice as dear takes
    half the steps. Growing wins only if it is better than not growing by more than `errors`
    standard errors of the paired difference over validation batches, so that chance does not
    grow a model.

    Attributes:
      steps: steps of the model as it is.
      batches: validation batches that the candidates are scored on, 2 or more.
      lower: the factor of "only lower the learning rate"; `None` leaves that candidate out.
      errors: how many standard errors better a change must be.
      anneal: whether every candidate's learning rate falls to 0 over its steps. Loss right after
        lowering the rate flatters the candidate with the lowest; annealed, all are compared as
        finished models.
      unroll: write the steps out instead of looping. XLA on CPUs runs convolutions in a loop
        many times slower.
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
    """What size costs: the objective is loss + per_parameter · N + per_flop · FLOPs per example.

    Attributes:
      per_parameter: loss that a parameter must save.
      per_flop: loss that a training FLOP per example must save.
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
    """One way on.

    Attributes:
      kind: "stay", "lower" or "grow".
      transition: the growth; `None` for the other two.
      alternative: which of the next level's stages it leads to.
      steps: how many steps it is given.
      flops: what those cost.
      price: what its size costs.
    """

    kind: Literal["stay", "lower", "grow"]
    transition: Transition | None
    alternative: int
    steps: int
    flops: float
    price: float

    @property
    def name(self) -> str:
        """What reports call it."""
        if self.transition is None:
            names = {"stay": "do not grow", "lower": "only lower the learning rate"}
            return names.get(self.kind, self.kind)
        return f"{self.transition.big.stage.how} → {self.transition.big.name}"


class Probing:
    """The candidates from one stage, in one compiled program."""

    def __init__(
        self, here: PreparedStage, transitions: Sequence[Transition], probe: Probe, price: Price
    ):
        if here.step.placement.name in ("pmap", "shard_map"):
            raise ValueError(
                f"A probe runs its candidates in one program, which placement="
                f"{here.step.placement.name!r} does not allow; use 'single', 'jit' or 'fsdp'."
            )
        if here.step.steps_per_call != 1:
            raise ValueError("A probe needs steps_per_call=1.")
        self.here, self.probe = here, probe
        budget = probe.steps * here.flops_per_step
        found = [Candidate("stay", None, -1, probe.steps, budget, price.of(here))]
        if probe.lower is not None:
            found.append(Candidate("lower", None, -1, probe.steps, budget, price.of(here)))
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
        return self.here if candidate.transition is None else candidate.transition.big

    def batches(self) -> tuple[list[PyTree], list[PyTree]]:
        """For each candidate its training batches, stacked, and the validation batches, stacked.

        They are drawn beyond the place where the run is, which does not move.
        """
        training, validation = [], []
        for candidate in self.candidates:
            prepared = self.stage_of(candidate)
            position, drawn = self.here.data.position, []
            if prepared.data.size != self.here.data.size:
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
        """Each candidate's losses, one a validation batch; pure."""
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

    def compile(self) -> Probing:
        """Compiles the program; itself, for chaining."""
        training, validation = self.batches()
        arguments = (self.here.like, self._whole_shapes(training), _shapes(validation))
        self._program = jax.jit(self.program).lower(*arguments).compile()
        self.flops = program_flops(self.program, arguments, self._program)
        return self

    @property
    def _everywhere(self) -> jax.sharding.Sharding:
        return self.here.step.placement.everywhere

    def _whole_shapes(self, shares: PyTree) -> PyTree:
        """Of batches that lie whole on every device, as those of a process that is alone do."""
        shapes = _shapes(shares)
        return shapes if alone() else joined_shapes(shapes, 1, self._everywhere)

    def __call__(self, state: TrainState) -> dict[str, Any]:
        """Runs it: the numbers of every candidate and which is best, as JSON holds them."""
        training, validation = self.batches()
        if not alone():
            training = [from_shares(each, self._everywhere, 1) for each in training]
        losses = self._program(state, training, validation)
        return decide(self.candidates, [np.asarray(x, np.float64) for x in losses], self.probe)


def decide(
    candidates: Sequence[Candidate], losses: Sequence[np.ndarray], probe: Probe
) -> dict[str, Any]:
    """The best candidate by loss + price, among those that beat "do not grow" beyond chance.

    Returns:
      {"candidates": [{name, kind, alternative, steps, flops, loss, price, score, gain, error}],
       "best": index}; gain is over "do not grow", error the standard error of that gain.
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
        # NaN compares as false: a candidate that diverged never wins.
        if number and gain > probe.errors * error and score < best_score:
            best, best_score = number, score
    return {"candidates": rows, "best": best}


def _stack(batches: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.asarray(x).dtype), tree)
