"""A stage that is ready to train: its model, step, data and evaluation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.processes import alone
from trainkit.cost import count_flops, step_flops, whole_program
from trainkit.placement.shares import joined_shapes
from trainkit.progressive.stages.evaluation import Evaluation
from trainkit.progressive.stages.pace import paced
from trainkit.progressive.stages.stage import Stage
from trainkit.step.state import TrainState
from trainkit.step.train_step import TrainStep, make_train_step

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings that all stages of a run share.

    Attributes:
      build: function stage.model -> `trainkit.adapters.model.Model`.
      tx: the user's gradient transformation.
      data: function `Data -> Sampler`.
      validation: the batches to evaluate on, or a function `Data -> batches`.
      grow: plans the growth between two models: a `progressive.transition.state_growth.Grow`.
      seed: integer seed of parameters and growths.
      warmup: steps of learning-rate warm-up at the start of the run.
      placement, options: as for `make_train_step`.
      tokens: tokens per example, for 6·N·D; `None`: the stage's sequence length, or 1.
      certify: whether to compute certificates of growths.
    """

    build: Callable[[Any], Any]
    tx: optax.GradientTransformation
    data: Callable[[Any], Any]
    validation: Any
    grow: Callable[..., Any]
    seed: int = 0
    warmup: int = 0
    placement: Any = "single"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokens: int | None = None
    certify: bool = True

    @functools.cached_property
    def paced(self) -> optax.GradientTransformationExtraArgs:
        """`tx` with the learning-rate factors of a progressive run."""
        return paced(self.tx, warmup=self.warmup)


class PreparedStage:
    """One stage of a run, built from shapes alone; `compile` compiles its programs.

    Attributes:
      stage: the `Stage`.
      number: its number, from 0.
      model: its pure functions.
      step: its train step.
      data: its sampler.
      like: `jax.ShapeDtypeStruct`s of its states, with shardings.
      batch: `jax.ShapeDtypeStruct`s of the batch argument of the step.
      batch_shapes: the same for one batch of all processes, without the axis of `steps_per_call`.
      one_batch: a batch of this process, NumPy arrays.
      per_batch: the number of examples in a batch of all processes.
      parameters: the number of parameters.
      evaluation: its evaluation.

    Raises:
      TypeError: `build` does not return a trainkit `Model`.
    """

    def __init__(self, recipe: Recipe, stage: Stage, number: int):
        self.recipe, self.stage, self.number = recipe, stage, number
        self.model = recipe.build(stage.model)
        if not (hasattr(self.model, "state") and hasattr(self.model, "evaluation")):
            raise TypeError(
                f"build gave a {type(self.model).__name__} for stage {number}; it must give a "
                "trainkit Model, such as trainkit.from_linen(module, loss)."
            )
        self.data = recipe.data(stage.data)
        drawn = self.data.draw(self.data.position)[0]
        self.per_batch = int(jax.tree.leaves(drawn)[0].shape[0]) * jax.process_count()
        self.step: TrainStep = make_train_step(
            self.model,
            recipe.paced,
            placement=recipe.placement,
            # The progress bar and the log show the stage under this name.
            schedules={"stage": lambda step: jnp.full_like(step, number)},
            **recipe.options,
        ).donating()
        several = (self.step.steps_per_call,) if self.step.steps_per_call > 1 else ()
        own = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.asarray(x).dtype), drawn)
        self.batch_shapes = joined_shapes(own, 0)
        self.batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*several, *x.shape), x.dtype), self.batch_shapes
        )
        self.one_batch = drawn
        fresh = jax.eval_shape(lambda: self.model.state(recipe.paced, drawn, recipe.seed))
        self.like = _placed_shapes(self.step, fresh)
        self.parameters = sum(x.size for x in jax.tree.leaves(self.like.params))
        validation = recipe.validation
        self.evaluation = Evaluation(
            self.model,
            validation(stage.data) if callable(validation) else validation,
            self.like,
            placement=self.step.placement,
            precision=recipe.options.get("precision"),
        )

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.stage.name or _short(self.stage.model)

    def local_initial_state(self) -> TrainState:
        """`initial_state` on this process only, without communication with others."""
        return self.initial_state() if alone() else jax.jit(self.step.prepared)(self._initial())

    def _initial(self, seed: int | None = None) -> TrainState:
        seed = self.recipe.seed if seed is None else seed
        state = self.model.state(self.recipe.paced, self.one_batch, seed)
        level = jnp.float32(self.stage.learning_rate)
        return state.replace(opt_state=state.opt_state._replace(level=level))

    def initial_state(self, seed: int | None = None) -> TrainState:
        """A new state, placed on the devices of the step; by default with the recipe's seed."""
        return self.step.place(self._initial(seed))

    def compile(self) -> PreparedStage:
        """Compiles the step and the evaluation, and returns `self`."""
        self.step.compile(self.like, self.batch)
        _ = self.flops_per_step
        self.evaluation.compile()
        return self

    @functools.cached_property
    def flops_per_step(self) -> float:
        """FLOPs of one optimizer step, from the compiled program."""
        return step_flops(self.step, self.like, self.batch) / self.step.steps_per_call

    def counted_flops(self) -> float:
        """FLOPs of one optimizer step, estimated without compiling."""
        flops = count_flops(whole_program(self.step), self.like, self.batch)
        return flops / self.step.steps_per_call

    @property
    def analytic_per_example(self) -> float:
        """6·N·D of one example."""
        tokens = self.recipe.tokens or self.stage.data.sequence_length or 1
        return 6.0 * self.parameters * tokens


def _placed_shapes(step: TrainStep, state: TrainState) -> TrainState:
    prepared = jax.eval_shape(step.prepared, state)
    shardings = step.placement.state_shardings(prepared)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), prepared, shardings
    )


def _short(model: Any) -> str:
    text = " ".join(str(model).split("\n")[0].split()) if not isinstance(model, str) else model
    if dataclasses.is_dataclass(model) and not isinstance(model, type):
        fields = [
            f"{f.name}={getattr(model, f.name)}"
            for f in dataclasses.fields(model)
            if f.name not in ("parent", "name") and f.repr
        ]
        text = f"{type(model).__name__}({', '.join(fields)})"
    return text if len(text) <= 60 else text[:57] + "…"


def prepare_levels(recipe: Recipe, levels: Sequence[Sequence[Stage]]) -> list[list[PreparedStage]]:
    """The prepared alternatives of every level."""
    return [[PreparedStage(recipe, stage, k) for stage in level] for k, level in enumerate(levels)]
