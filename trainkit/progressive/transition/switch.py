"""The way from one stage to the next: one program, rehearsed before and certified after."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from trainkit._core.paths import named_leaves, path_name
from trainkit._core.processes import alone
from trainkit.cost import count_flops
from trainkit.growth.operators import operator
from trainkit.growth.views import certify
from trainkit.placement.shares import joined_shapes, on_own_device
from trainkit.progressive.stages.pace import after_growth
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.stages.stage import Stage, StageError
from trainkit.progressive.transition.state_growth import Side, StateGrowth
from trainkit.step.state import TrainState

PyTree = Any


class Transition:
    """The way from one prepared stage to another: one compiled program that grows the state.

    Attributes:
      small, big: the stages.
      growth: what the analysis found; `None` where only the data grow.
      flops: of growing and certifying, once compiled.
    """

    def __init__(self, small: PreparedStage, big: PreparedStage):
        self.small, self.big = small, big
        recipe, stage = big.recipe, big.stage
        self.growth: StateGrowth | None = None
        if stage.model != small.stage.model:
            self.growth = recipe.grow(
                _side(small, small.like),
                _side(big, big.like),
                big.batch_shapes,
                tx=recipe.tx,
                how=operator(stage.how),
                reset=stage.moments == "reset",
                key=jax.random.fold_in(jax.random.key(recipe.seed), big.number),
            )
            if stage.mup is not None and self.growth.mup is None:
                raise StageError(
                    f"Stage {big.number} has mup={stage.mup!r}, but its growth does not say which "
                    "axes are contracted: leave mup out, or use trainkit's own growth."
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
            grown = state
        else:
            grown = self.growth.apply(state.replace(opt_state=pace.inner))
            ramps = _ramps(grown.params, self.growth, stage, pace.target)
            pace = after_growth(pace, grown.opt_state, *ramps)
        factor = stage.learning_rate / before.learning_rate
        pace = pace._replace(level=pace.level * jnp.float32(factor))
        return grown.replace(opt_state=pace)

    # -- ahead of time ---------------------------------------------------------------------------

    def compile(self) -> Transition:
        """Compiles the growth and everything of the stage; itself, for chaining."""
        self.big.compile()
        # What `step.place` would do is part of the program, so that nothing is left to do after.
        program = lambda state: self.big.step.prepared(self.apply(state))
        where = self._shardings(jax.eval_shape(program, self.small.like))
        self._program = jax.jit(program, out_shardings=where).lower(self.small.like).compile()
        self.flops = count_flops(program, self.small.like)
        if self.growth is not None and self.big.recipe.certify:
            self.flops += self._certificate_flops()
        if self.big.step.donate:
            # The first step takes the grown state's buffers; the certificate needs its own.
            copy = lambda state: jax.tree.map(jnp.copy, state)
            self._copy = jax.jit(copy, out_shardings=where).lower(self.big.like).compile()
        return self

    def rehearse(self) -> Transition:
        """Runs every program once, on zeros, and forgets what comes out; itself, for chaining.

        The first run of a program takes several times as long as the later ones: code is loaded,
        memory is found, arguments are looked at. With this that is over when training needs it.
        Not on several devices: programs of two threads could wait for each other's collectives.
        """
        if self.small.step.placement.parts > 1 or not alone():
            return self
        # Zeros need not have a finite gradient, and nobody reads it.
        with contextlib.suppress(FloatingPointError):
            state = self._program(self._zeros(self.small.like))
            self.big.evaluation.rehearse(state)
            batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.big.batch)
            step = self.big.step.compile(self.big.like, self.big.batch)
            jax.block_until_ready(step(state, self.big.step.place_batch(batch)))
        return self

    def _zeros(self, like: TrainState) -> TrainState:
        zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return jax.jit(zeros, out_shardings=self._shardings(like))()

    def _shardings(self, state: TrainState) -> PyTree:
        return self.big.step.placement.state_shardings(state)

    # -- the switch ------------------------------------------------------------------------------

    def __call__(self, state: TrainState) -> tuple[TrainState, Callable[[], dict[str, Any]]]:
        """The grown state, and a function that makes its certificate; needs `compile`.

        It runs the one program and waits for nothing. The certificate is for another thread: it
        compiles and runs the models, apart from the steps that follow.
        """
        grown = self._program(state)
        if self.growth is None or not self.big.recipe.certify:
            return grown, dict
        if not alone():
            # Another thread must not wait for other processes, which this one waits for.
            small, big = on_own_device((state, grown))
            return grown, lambda: self._certificate_or_why_not(small, big)
        kept = self._copy(grown) if self.big.step.donate else grown
        return grown, lambda: self._certificate_or_why_not(state, kept)

    def _certificate_or_why_not(self, small: TrainState, big: TrainState) -> dict[str, Any]:
        try:
            return self.certificate(small, big)
        except Exception as error:  # a run must not end for want of memory for its history
            return {"warnings": [f"there is no certificate: {type(error).__name__}: {error}"]}

    def certificate_of_fresh(self) -> dict[str, Any]:
        """The certificate of the same growth of a state from scratch.

        For a run that was stopped before its own was made: the states of that time are gone, the
        maps are the same.
        """
        if self.growth is None or not self.big.recipe.certify:
            return {}
        small = self.small.fresh_here()
        big = jax.jit(lambda state: self.big.step.prepared(self.apply(state)))(small)
        found = self._certificate_or_why_not(small, big)
        warning = "made of a state from scratch: the run was stopped while its own was being made"
        return {**found, "warnings": [*found.get("warnings", ()), warning]}

    def certificate(self, small: TrainState, big: TrainState) -> dict[str, Any]:
        """What the growth did, as JSON holds it: the fields of `trainkit.growth.Certificate`.

        And the loss on a batch before and after; in several processes, on this one's share of it.
        Of a growth that does not say how its leaves grew, the change of the outputs is all that
        can be told.
        """
        assert self.growth is not None
        if self.small.step.placement.parts > 1 and alone():
            # On one device, from the host: no collective that steps could wait for.
            small, big = (
                jax.device_put(jax.device_get(s), jax.local_devices()[0]) for s in (small, big)
            )
        batch = self.big.one_batch
        found = {k: float(v) for k, v in jax.jit(self.outputs)(small, big, batch).items()}
        dtype = str(jax.tree.leaves(big.params)[0].dtype)
        whole: dict[str, Any] = {"forward_error": {dtype: found.pop("forward_error")}}
        if self.growth.map.leaves:
            sides = _side(self.small, small), _side(self.big, big)
            before, after = (certify.Side(side.outputs, side.state) for side in sides)
            tx = self.big.recipe.tx
            certificate = certify.certify(self.growth.map, before, after, (batch,), tx)
            whole = json.loads(certificate.to_json())
        return {**whole, **found}

    def outputs(self, small: TrainState, big: TrainState, batch: PyTree) -> dict[str, jax.Array]:
        """How far outputs moved, and the losses, on one batch; pure."""
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

    def _certificate_flops(self) -> float:
        sides = (_side(stage, stage.like) for stage in (self.small, self.big))
        batch = joined_shapes(self.big.batch_shapes, 0)  # each process makes it of its share
        small, big = (count_flops(s.outputs, s.variables, batch) for s in sides)
        # Outputs and loss, and outputs in two dtypes; gradients (three passes each) of the small
        # model, of the big one, and of its three probe steps.
        return (4 + 3) * small + (4 + 3 + 9) * big


class Placed:
    """A step for a state that its growth has placed already: `place` has nothing left to do."""

    def __init__(self, stage: PreparedStage, state: TrainState):
        self._step, self._state = stage.step, cast("TrainState | None", state)
        self.flops_per_call = stage.flops_per_step * stage.step.steps_per_call

    def place(self, state: TrainState) -> TrainState:
        """The state, placed."""
        if state is self._state:
            self._state = None  # it must not be kept alive beyond its first step
            return state
        return self._step.place(state)

    def __call__(self, state: TrainState, batch: PyTree) -> Any:
        return self._step(state, batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


def _ramps(
    params: PyTree, growth: StateGrowth, stage: Stage, before: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """Each leaf's factor on the learning rate at first, over how many steps it goes, and where.

    Args:
      params: the grown ones.
      growth: of this stage.
      stage: its options.
      before: where the leaves' factors were to go in the stage before.
    """
    old: dict[Any, Any] = dict(named_leaves(before))
    new = set(growth.map.new)

    def had(name: str) -> Any:
        # A new leaf may bear the name of an old one that moved along.
        return old.get(growth.map.origin_of(name).leaf, 1.0)

    def target(path: tuple[Any, ...], _: Any) -> Any:
        name = path_name(path)
        known = (growth.mup or {}).get(name)
        own = 1.0 if stage.mup is None or known is None else getattr(known, stage.mup)
        return had(name) * own

    def start(path: tuple[Any, ...], end: Any) -> Any:
        name = path_name(path)
        if name in new:
            return 0.0 if stage.rewarm else end
        return had(name) * growth.map.rates.get(name, 1.0) if stage.anneal else end

    def over(path: tuple[Any, ...], _: Any) -> float:
        return float(stage.rewarm if path_name(path) in new else stage.anneal)

    mapped = jax.tree_util.tree_map_with_path
    targets = mapped(target, params)
    return mapped(start, targets), mapped(over, params), targets


def _side(stage: PreparedStage, state: TrainState) -> Side:
    return Side(stage.stage.model, stage.model, state.replace(opt_state=state.opt_state.inner))


def _mean(loss: Any) -> jax.Array:
    return loss.total / loss.weight
