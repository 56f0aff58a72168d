"""The transition from one stage to the next: one compiled program, and its certificate."""

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
from trainkit.placement.shares import on_own_device
from trainkit.progressive.stages.pace import LeafPace, PaceState, after_growth
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.stages.stage import Stage, StageError
from trainkit.progressive.transition.state_growth import StageModel, StateGrowth
from trainkit.step.state import TrainState

PyTree = Any


class Transition:
    """The transition between two prepared stages: one compiled program that grows the state.

    Attributes:
      small, big: the stages before and after.
      growth: the growth of the state; `None` if only the data change.
      flops: FLOPs of growing and certifying; set by `compile`.

    Raises:
      GrowthError: the model of `big` cannot be grown from that of `small`.
      StageError: `mup` is set, but the growth does not know which axes are contracted.
      ValueError: the grown state does not have the shapes of `big`.
    """

    def __init__(self, small: PreparedStage, big: PreparedStage):
        self.small, self.big = small, big
        recipe, stage = big.recipe, big.stage
        self.growth: StateGrowth | None = None
        if stage.model != small.stage.model:
            self.growth = recipe.grow(
                _stage_model(small, small.like),
                _stage_model(big, big.like),
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
                f"the stage has {wanted.get(name)}: `grow` does not fit the model."
            )

    def apply(self, state: TrainState) -> TrainState:
        """The grown state; a pure function."""
        stage, before = self.big.stage, self.small.stage
        pace = state.opt_state
        if self.growth is None:
            grown = state
        else:
            grown = self.growth.apply(state.replace(opt_state=pace.inner))
            leaves = _leaf_paces(grown.params, self.growth, stage, pace)
            pace = after_growth(pace, grown.opt_state, leaves)
        factor = stage.learning_rate / before.learning_rate
        pace = pace._replace(level=pace.level * jnp.float32(factor))
        return grown.replace(opt_state=pace)

    # -- ahead of time ---------------------------------------------------------------------------

    def compile(self) -> Transition:
        """Compiles the growth and the programs of `big`, and returns `self`."""
        self.big.compile()
        # The program includes what `step.place` would do, so that no other call is needed.
        program = lambda state: self.big.step.prepared(self.apply(state))
        where = self._shardings(jax.eval_shape(program, self.small.like))
        self._program = jax.jit(program, out_shardings=where).lower(self.small.like).compile()
        self.flops = count_flops(program, self.small.like)
        if self.growth is not None and self.big.recipe.certify:
            self.flops += self._certificate_flops()
        if self.big.step.donate:
            # The first step deletes the buffers of the grown state; the certificate needs a copy.
            copy = lambda state: jax.tree.map(jnp.copy, state)
            self._copy = jax.jit(copy, out_shardings=where).lower(self.big.like).compile()
        return self

    def rehearse(self) -> Transition:
        """Runs every program once on zeros, ignores the results, and returns `self`.

        The first run of a program takes several times as long as the later ones (loading code,
        allocating memory). Does nothing on several devices: programs of two threads could wait for
        each other's collectives.
        """
        if self.small.step.placement.parts > 1 or not alone():
            return self
        # The gradient at zeros need not be finite; it is not used.
        with contextlib.suppress(FloatingPointError):
            state = self._program(self._zeros(self.small.like))
            self.big.evaluation.rehearse(state)
            batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.big.batch)
            step = self.big.step.compile(self.big.like, self.big.batch)
            batch = self.big.step.place_batch(batch)
            jax.block_until_ready(step(state, batch, *self.big.step.wanted(norms=False)))
        return self

    def _zeros(self, like: TrainState) -> TrainState:
        zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return jax.jit(zeros, out_shardings=self._shardings(like))()

    def _shardings(self, state: TrainState) -> PyTree:
        return self.big.step.placement.state_shardings(state)

    # -- the switch ------------------------------------------------------------------------------

    def __call__(self, state: TrainState) -> tuple[TrainState, Callable[[], dict[str, Any]]]:
        """The grown state, and a function that computes its certificate; call `compile` first.

        It runs one program and waits for nothing. The certificate, which compiles and runs both
        models, is meant for another thread.
        """
        grown = self._program(state)
        if self.growth is None or not self.big.recipe.certify:
            return grown, dict
        if not alone():
            # The other thread must not communicate with other processes: this one does.
            small, big = on_own_device((state, grown))
            return grown, lambda: self._certificate_or_warning(small, big)
        kept = self._copy(grown) if self.big.step.donate else grown
        return grown, lambda: self._certificate_or_warning(state, kept)

    def _certificate_or_warning(self, small: TrainState, big: TrainState) -> dict[str, Any]:
        try:
            return self.certificate(small, big)
        except Exception as error:  # a failed certificate (out of memory) must not end the run
            return {"warnings": [f"there is no certificate: {type(error).__name__}: {error}"]}

    def certificate_of_initial_state(self) -> dict[str, Any]:
        """The certificate of this growth applied to an initial state.

        For a run that was stopped before its own certificate was done: the states of that time are
        lost, but the growth map is the same.
        """
        if self.growth is None or not self.big.recipe.certify:
            return {}
        small = self.small.local_initial_state()
        big = jax.jit(lambda state: self.big.step.prepared(self.apply(state)))(small)
        found = self._certificate_or_warning(small, big)
        warning = "computed on an initial state: the run was stopped before its own was done"
        return {**found, "warnings": [*found.get("warnings", ()), warning]}

    def certificate(self, small: TrainState, big: TrainState) -> dict[str, Any]:
        """The fields of a `trainkit.growth.Certificate`, and the losses before and after; JSON.

        The losses are on one batch (with several processes, on this one's share). If the growth
        has no map of its leaves, only the change of the outputs is certified.
        """
        assert self.growth is not None
        if self.small.step.placement.parts > 1 and alone():
            # Copied to one device through the host: no collective that steps could wait for.
            small, big = (
                jax.device_put(jax.device_get(s), jax.local_devices()[0]) for s in (small, big)
            )
        batch = self.big.one_batch
        found = {k: float(v) for k, v in jax.jit(self.outputs)(small, big, batch).items()}
        dtype = str(jax.tree.leaves(big.params)[0].dtype)
        whole: dict[str, Any] = {"forward_error": {dtype: found.pop("forward_error")}}
        if self.growth.map.leaves:
            sides = _stage_model(self.small, small), _stage_model(self.big, big)
            before, after = (certify.TrainedModel(side.outputs, side.state) for side in sides)
            tx = self.big.recipe.tx
            certificate = certify.certify(self.growth.map, before, after, (batch,), tx)
            whole = json.loads(certificate.to_json())
        return {**whole, **found}

    def outputs(self, small: TrainState, big: TrainState, batch: PyTree) -> dict[str, jax.Array]:
        """The relative change of the outputs, and the losses, on one batch; a pure function."""
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
        sides = (_stage_model(stage, stage.like) for stage in (self.small, self.big))
        small, big = (count_flops(s.outputs, s.variables, self.big.batch_shapes) for s in sides)
        # In forward passes. Both: outputs, loss, outputs in two dtypes (4), gradients (3). The big
        # model also has three probe steps (9).
        return (4 + 3) * small + (4 + 3 + 9) * big


class PlacedStep:
    """A step whose first `place` returns the state as it is: the growth has already placed it."""

    def __init__(self, stage: PreparedStage, state: TrainState):
        self._step, self._state = stage.step, cast("TrainState | None", state)
        self.flops_per_call = stage.flops_per_step * stage.step.steps_per_call

    def place(self, state: TrainState) -> TrainState:
        """See `TrainStep.place`."""
        if state is self._state:
            self._state = None  # keep no reference beyond the first step
            return state
        return self._step.place(state)

    def __call__(self, state: TrainState, batch: PyTree, *, norms: bool = False) -> Any:
        return self._step(state, batch, norms=norms)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


def _leaf_paces(params: PyTree, growth: StateGrowth, stage: Stage, before: PaceState) -> PyTree:
    """A `LeafPace` for each leaf after a growth.

    Args:
      params: the grown parameters.
      growth: the growth of this stage.
      stage: its options.
      before: the state before it.
    """
    old = named_leaves(before.leaves)
    new = set(growth.map.new)

    def one(path: tuple[Any, ...], _: Any) -> LeafPace:
        name = path_name(path)
        # A new leaf may have the name of an old one, which then has another name.
        origin = growth.map.origin_of(name).leaf
        was = LeafPace.of(old[origin]) if origin in old else LeafPace()
        known = (growth.mup or {}).get(name)
        own = 1.0 if stage.mup is None or known is None else getattr(known, stage.mup)
        target = was.target * own
        if name in new:
            start = 0.0 if stage.rewarm else target
            over = stage.rewarm
        else:
            start = was.target * growth.map.rates.get(name, 1.0) if stage.anneal else target
            over = stage.anneal
        if name in growth.young:
            was = was._replace(born=before.step, decays=growth.young[name])
        return was._replace(start=start, over=over, target=target)

    return jax.tree_util.tree_map_with_path(one, params)


def _stage_model(stage: PreparedStage, state: TrainState) -> StageModel:
    return StageModel(
        stage.stage.model, stage.model, state.replace(opt_state=state.opt_state.inner)
    )


def _mean(loss: Any) -> jax.Array:
    return loss.total / loss.weight
