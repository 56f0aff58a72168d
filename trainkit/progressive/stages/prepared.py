"""A stage made ready to train: its model, step, data and evaluation."""

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
from trainkit.progressive.stages.evaluation import Evaluation
from trainkit.progressive.stages.pace import paced
from trainkit.progressive.stages.stage import Stage
from trainkit.step.state import TrainState
from trainkit.step.train_step import TrainStep, make_train_step

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all stages of a run share.

    Attributes:
      build: stage.model -> `trainkit.adapters.model.Model`.
      tx: the gradient transformation, without pace.
      data: `Data -> Sampler`.
      validation: the batches to evaluate on, or `Data -> batches`.
      grow: how one model becomes the next: a `progressive.transition.state_growth.Grow`.
      seed: of parameters and growths.
      warmup: steps at the start of the run.
      placement, options: of `make_train_step`.
      tokens: tokens of an example, for 6·N·D; `None`: the stage's sequence length, or 1.
      certify: whether growths are certified.
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
        """The transformation that is trained with."""
        return paced(self.tx, warmup=self.warmup)


class PreparedStage:
    """One stage of a run; everything is made from shapes, and compiled only when asked to.

    Attributes:
      stage: the stage.
      model: its pure functions.
      step: its train step.
      data: its batches.
      like: shapes, dtypes and shardings of its states.
      batch: shapes of what a call of the step takes.
      batch_shapes: shapes of one batch.
      parameters: how many it has.
      evaluation: its evaluation.
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
            # The bar and the log say by this name which stage it is.
            schedules={"stage": lambda step: jnp.full_like(step, number)},
            **recipe.options,
        )
        several = (self.step.steps_per_call,) if self.step.steps_per_call > 1 else ()
        self.batch_shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, np.asarray(x).dtype), drawn
        )
        self.batch = self.step.placed_batch(
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((*several, *x.shape), x.dtype), self.batch_shapes
            )
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
        """What reports call it."""
        return self.stage.name or _short(self.stage.model)

    def fresh_here(self) -> TrainState:
        """The same as `fresh` without asking other processes: of several, each has it alone."""
        return self.fresh() if alone() else jax.jit(self.step.prepared)(self._initial())

    def _initial(self) -> TrainState:
        state = self.model.state(self.recipe.paced, self.one_batch, self.recipe.seed)
        level = jnp.float32(self.stage.learning_rate)
        return state.replace(opt_state=state.opt_state._replace(level=level))

    def fresh(self) -> TrainState:
        """A state from scratch, placed."""
        return self.step.place(self._initial())

    def compile(self) -> PreparedStage:
        """Compiles step and evaluation; itself, for chaining."""
        self.step.compile(self.like, self.batch)
        _ = self.flops_per_step
        self.evaluation.compile()
        return self

    @functools.cached_property
    def flops_per_step(self) -> float:
        """FLOPs of one optimizer step, from the compiled program."""
        return step_flops(self.step, self.like, self.batch) / self.step.steps_per_call

    def counted_flops(self) -> float:
        """The same counted from the program before it is compiled, for checks before training."""
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
    """Every alternative of every level, prepared."""
    return [[PreparedStage(recipe, stage, k) for stage in level] for k, level in enumerate(levels)]
