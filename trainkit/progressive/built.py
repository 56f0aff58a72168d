"""A stage made ready to train: its model, step, data and evaluation, and how to get there."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.cost import count_flops, step_flops
from trainkit.growth.between import Grow, Growth, Side
from trainkit.growth.operators import operator
from trainkit.growth.pace import after_growth, paced
from trainkit.growth.paths import named_leaves, path_name
from trainkit.growth.stages import Stage
from trainkit.progressive.evaluation import Evaluation, _left_out
from trainkit.state import TrainState
from trainkit.step import TrainStep, make_train_step

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all stages of a run share.

    Attributes:
      build: stage.model -> `trainkit.model.Model`.
      tx: the gradient transformation, without pace.
      data: `Data -> Sampler`.
      validation: the batches to evaluate on, or `Data -> batches`.
      grow: how one model becomes the next.
      seed: of parameters and growths.
      warmup: steps at the start of the run.
      placement, options: of `make_train_step`.
      tokens: tokens of an example, for 6·N·D; `None`: the stage's sequence length, or 1.
    """

    build: Callable[[Any], Any]
    tx: optax.GradientTransformation
    data: Callable[[Any], Any]
    validation: Any
    grow: Grow
    seed: int = 0
    warmup: int = 0
    placement: Any = "single"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokens: int | None = None

    @functools.cached_property
    def paced(self) -> optax.GradientTransformationExtraArgs:
        """The transformation that is trained with."""
        return paced(self.tx, warmup=self.warmup)


class Built:
    """One stage of a run; everything is made from shapes, and compiled only when asked to.

    Attributes:
      stage: the stage.
      model: its pure functions.
      step: its train step.
      data: its batches.
      like: shapes, dtypes and shardings of its states.
      batch: shapes of a batch.
      parameters: how many it has.
      evaluation: its evaluation.
    """

    def __init__(self, recipe: Recipe, stage: Stage, number: int):
        self.recipe, self.stage, self.number = recipe, stage, number
        self.model = recipe.build(stage.model)
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
        calls = self.step.steps_per_call
        self.batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (calls, *x.shape) if calls > 1 else x.shape, np.asarray(x).dtype
            ),
            drawn,
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

    def fresh(self) -> TrainState:
        """A state from scratch, placed."""
        state = self.model.state(self.recipe.paced, self.one_batch, self.recipe.seed)
        level = jnp.float32(self.stage.learning_rate)
        return self.step.place(state.replace(opt_state=state.opt_state._replace(level=level)))

    def compile(self) -> Built:
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
        return count_flops(self.step.program, self.like, self.batch) / self.step.steps_per_call

    @property
    def analytic_per_example(self) -> float:
        """6·N·D of one example."""
        tokens = self.recipe.tokens or self.stage.data.sequence_length or 1
        return 6.0 * self.parameters * tokens


class Passage:
    """The way from one built stage to another: one compiled program that grows the state.

    Attributes:
      small, big: the stages.
      growth: what the analysis found; `None` where only the data grow.
    """

    def __init__(self, small: Built, big: Built):
        self.small, self.big = small, big
        recipe, stage = big.recipe, big.stage
        same = stage.model == small.stage.model
        self.growth: Growth | None = None
        if not same:
            inner = lambda side: side.like.replace(opt_state=side.like.opt_state.inner)
            self.growth = recipe.grow(
                Side(small.stage.model, small.model, inner(small)),
                Side(stage.model, big.model, inner(big)),
                jax.tree.map(_unstacked(big.step.steps_per_call), big.batch),
                build=recipe.build,
                tx=recipe.tx,
                how=operator(stage.how),
                reset=stage.moments == "reset",
                key=jax.random.fold_in(jax.random.key(recipe.seed), big.number),
            )
            self._check()

    def _check(self) -> None:
        grown = jax.eval_shape(self.apply, self.small.like)
        found = {name: x.shape for name, x in named_leaves(grown).items()}
        wanted = {name: x.shape for name, x in named_leaves(self.big.like).items()}
        if found != wanted:
            name = next(n for n in (*wanted, *found) if found.get(n) != wanted.get(n))
            raise ValueError(
                f"growing to stage {self.big.number} gives {name} the shape {found.get(name)}, but "
                f"the stage has {wanted.get(name)}: `grow` and the model disagree."
            )

    def apply(self, state: TrainState) -> TrainState:
        """The grown state; pure."""
        stage, before = self.big.stage, self.small.stage
        pace = state.opt_state
        if self.growth is None:
            grown, inner = state, pace.inner
            start = jax.tree.map(lambda _: 1.0, state.params)
            over = jax.tree.map(lambda _: 0.0, state.params)
        else:
            grown = self.growth.apply(state.replace(opt_state=pace.inner))
            inner = grown.opt_state
            start, over = _ramps(grown.params, self.growth, stage)
        factor = stage.learning_rate / before.learning_rate
        pace = after_growth(pace, inner, start, over)
        pace = pace._replace(level=pace.level * jnp.float32(factor))
        return grown.replace(opt_state=pace)

    def certify(self, small: TrainState, big: TrainState, batch: PyTree) -> dict[str, jax.Array]:
        """What the growth did to the function, on one batch; pure."""
        before = self.small.model.predict(small, batch)
        after = self.big.model.predict(big, batch)
        pairs = list(zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
        difference = jnp.stack([jnp.abs(a - b).max() for a, b in pairs]).max()
        scale = jnp.stack([jnp.abs(a).max() for a, _ in pairs]).max()
        loss = lambda model, state: _mean(
            model.evaluation(state.params, state.model_state, batch, state.rng)
        )
        return {
            "forward_error": difference / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny),
            "loss_before": loss(self.small.model, small),
            "loss_after": loss(self.big.model, big),
        }

    def compile(self) -> Passage:
        """Compiles the growth, its certificate and everything of the stage; itself."""
        self.big.compile()
        place = self.big.step.placement
        # What `step.place` would do is part of the program, so that nothing is left to do after.
        program = lambda state: self.big.step.prepared(self.apply(state))
        shardings = place.state_shardings(jax.eval_shape(program, self.small.like))
        self._program = jax.jit(program, out_shardings=shardings).lower(self.small.like).compile()
        self.flops = count_flops(program, self.small.like)
        self._certify = None
        batch = jax.tree.map(_unstacked(self.big.step.steps_per_call), self.big.batch)
        same_inputs = self.small.stage.data == self.big.stage.data
        if self.growth is not None and same_inputs:
            arguments = (self.small.like, self.big.like, batch)
            self._certify = jax.jit(self.certify).lower(*arguments).compile()
            self.flops += cost_of(self.certify, arguments, self._certify)
        return self

    def __call__(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The grown state, and its certificate as device scalars; needs `compile`."""
        begin = time.perf_counter()
        grown = self._program(state)
        certificate: dict[str, Any] = {}
        if self._certify is not None:
            certificate = dict(self._certify(state, grown, self.big.one_batch))
        certificate["dispatch_seconds"] = time.perf_counter() - begin
        return grown, certificate


def cost_of(function: Callable[..., Any], arguments: tuple[Any, ...], compiled: Any) -> float:
    """FLOPs of a compiled program, its loops counted in full."""
    from trainkit.cost import cost

    return cost(compiled).flops + _left_out(function, arguments)


def _ramps(params: PyTree, growth: Growth, stage: Stage) -> tuple[PyTree, PyTree]:
    """Each leaf's own factor on the learning rate at first, and over how many steps it goes."""

    def start(path: tuple[Any, ...], _: Any) -> float:
        name = path_name(path)
        if name in growth.fresh:
            return 0.0 if stage.rewarm else 1.0
        return growth.rates.get(name, 1.0) if stage.anneal else 1.0

    def over(path: tuple[Any, ...], _: Any) -> float:
        return float(stage.rewarm if path_name(path) in growth.fresh else stage.anneal)

    return (
        jax.tree_util.tree_map_with_path(start, params),
        jax.tree_util.tree_map_with_path(over, params),
    )


def _mean(loss: Any) -> jax.Array:
    return loss.total / loss.weight


def _placed_shapes(step: TrainStep, state: TrainState) -> TrainState:
    prepared = jax.eval_shape(step.prepared, state)
    shardings = step.placement.state_shardings(prepared)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), prepared, shardings
    )


def _unstacked(calls: int) -> Callable[[Any], jax.ShapeDtypeStruct]:
    return lambda x: jax.ShapeDtypeStruct(x.shape[1:] if calls > 1 else x.shape, x.dtype)


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


def shapes_of(params: PyTree) -> dict[str, tuple[int, ...]]:
    """Leaf name -> shape."""
    return {name: tuple(x.shape) for name, x in named_leaves(params).items()}


def levels_built(recipe: Recipe, levels: Sequence[Sequence[Stage]]) -> list[list[Built]]:
    """Every alternative of every level, built."""
    return [[Built(recipe, stage, k) for stage in level] for k, level in enumerate(levels)]
