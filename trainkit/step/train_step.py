"""The train step: loss -> gradients -> transformation -> new state, for every placement."""
# Over 300 lines: a third of them document the options.

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from trainkit._core import validation
from trainkit._core.buffers import owned
from trainkit._core.processes import alone, same_leaves
from trainkit._core.validation import on_devices, steps
from trainkit._core.validation.trees import shape_of
from trainkit.placement import Placement, resolve
from trainkit.placement.shares import from_shares, from_whole, is_placed
from trainkit.step.compiled import Compiled, signature
from trainkit.step.guard import Guard, Limit
from trainkit.step.in_flight import InFlight
from trainkit.step.loss import LossFn
from trainkit.step.precision import Precision
from trainkit.step.program import Metrics, Program, step_program
from trainkit.step.state import TrainState
from trainkit.step.update import NORMS

PyTree = Any


@validation.named_options
def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    placement: str | Mesh | Placement = "single",
    devices: int | Sequence[jax.Device] | None = None,
    microbatches: int = 1,
    steps_per_call: int = 1,
    precision: Precision | str | None = None,
    skip_nonfinite: bool | int = False,
    remat: bool | Callable[..., Any] = False,
    donate: bool | None = None,
    schedules: Mapping[str, Callable[[jax.Array], Any]] | None = None,
    norms: bool | int | None = None,
) -> TrainStep:
    """A compiled `state, metrics = step(state, batch)`, with a state from `step.place(state)`.

    One step computes, over all micro-batches and devices,

      L = Σ total / Σ weight,  g = Σ ∂total / Σ weight,
      u, opt_state′ = tx.update(g, opt_state, params),  params′ = params + u.

    For a complex parameter z = x + i y, g is ∂L/∂x + i ∂L/∂y, up which L goes: the conjugate of
    what `jax.grad` returns.

    Args:
      loss_fn: `(params, model_state, batch, rng) -> Loss`, a pure function.
      tx: a gradient transformation. Its `update` gets the extra arguments that it accepts:
        `value` = L; `grad` = g; `value_fn`, the loss L over the batch as a function of parameters
        (for line searches and second-order rules; it costs nothing if it is not called);
        `weight` = Σ weight, which `trainkit.transforms.accumulate` uses; and, both for
        `trainkit.transforms.lookahead`, `round`, `None` unless the placement is periodic, and
        `pace`, `None` unless a progressive run paces the transformation.
      placement: "single", "pmap", "shard_map", "jit" (batch sharded, state replicated), "fsdp"
        (state sharded by size), "periodic" (devices train apart, with a mean at the end of each
        call), a `jax.sharding.Mesh`, or an object from `trainkit.placement`.
      devices: the number of devices, or a list of them; `None`: all (for "single", the first).
      microbatches: the number of parts into which the batch is divided; their gradients are summed.
      steps_per_call: K steps in one call, as a scan. Every batch leaf and every metric has a
        leading axis K. With this or `microbatches`, XLA on a CPU runs convolutions many times
        slower, because they are inside a loop.
      precision: "float32", "bfloat16" (float32 master weights), "float16" (dynamic loss scaling)
        or a `trainkit.Precision`.
      skip_nonfinite: whether to skip steps whose loss or gradient is not finite. An integer is the
        largest number of skipped steps in a row; one more raises `NonFiniteError`. The error comes
        a few calls late, because no step waits for the device (`step.check()` does).
      remat: whether to recompute activations in the backward pass: `True`, or a `jax.checkpoint`
        policy.
      donate: whether a step may reuse the buffers of its input state, which is then deleted: the
        new state needs no memory of its own. `None`: not when it is called by hand; in `fit` and
        `progressive`, whose states are their own, it does.
      schedules: name -> function of the step number, reported in the metrics. Hyper-parameters in
        the optimizer state (`optax.inject_hyperparams`) are always reported, and so is the learning
        rate in force (of groups as `learning_rate/body`), a schedule's too.
      norms: whether to report the norms of gradient, update and parameters (`grad_norm`,
        `update_norm`, `param_norm`), which costs another pass over each tree. `None`: in the calls
        `step(state, batch, norms=True)`, as `fit` does for what it logs. An integer n: at every
        n-th step, and NaN at the others. The update is what the parameters moved by: new minus
        old, with the rounding of the sum.

    Returns:
      A `TrainStep`.

    Raises:
      ValueError, TypeError: an invalid value of an option; an unknown option or a wrong type.

    >>> import jax, jax.numpy as jnp, numpy as np, optax, trainkit
    >>> def loss_fn(params, model_state, batch, rng):
    ...     error = batch["x"] @ params["w"] - batch["y"]
    ...     return trainkit.Loss(total=(error**2).sum(), weight=len(error))
    >>> tx = optax.sgd(0.1)
    >>> step = trainkit.make_train_step(loss_fn, tx)
    >>> state = step.place(trainkit.TrainState.create({"w": jnp.zeros(2)}, tx))
    >>> batch = {"x": np.eye(2, dtype=np.float32), "y": np.ones(2, np.float32)}
    >>> state, metrics = step(state, batch)
    >>> float(metrics["loss"]), int(state.step), step.compiles
    (1.0, 1, 1)
    """
    steps.options(
        loss_fn,
        tx,
        microbatches=microbatches,
        steps_per_call=steps_per_call,
        skip_nonfinite=skip_nonfinite,
        norms=norms,
        remat=remat,
        donate=donate,
        schedules=schedules,
    )
    place = resolve(placement, devices)
    how = Precision.of(precision)
    guard = Guard.of(skip_nonfinite, how)
    program = step_program(
        loss_fn,
        tx,
        place,
        guard,
        schedules=dict(schedules or {}),
        norms=norms if norms is None else int(norms),
        microbatches=microbatches,
        steps_per_call=steps_per_call,
        precision=how,
        remat=remat,
    )
    return TrainStep(
        program, place, microbatches, steps_per_call, donate, loss_fn, tx, how, guard, norms
    )


@dataclasses.dataclass(eq=False)
class TrainStep:
    """A compiled train step, the result of `make_train_step`; its attributes are its options."""

    program: Program
    placement: Placement
    microbatches: int
    steps_per_call: int
    donate: bool | None
    loss_fn: LossFn
    tx: optax.GradientTransformation
    precision: Precision
    guard: Guard
    norms: bool | int | None = None

    def __post_init__(self) -> None:
        self._axis = 0 if self.steps_per_call == 1 else 1  # of the examples in a batch leaf
        self._compiled = Compiled()
        self._accepted: set[Any] = set()
        self._known: dict[Any, jax.stages.Compiled] = {}
        self._in_flight = InFlight(self.placement)
        self._last: tuple[weakref.ref[TrainState] | None, Any] = (None, None)
        self._limit = Limit(self.guard.limit)
        self._flags: dict[bool, jax.Array] = {}  # whether norms are wanted, on the devices
        self._donating: TrainStep | None = None

    @property
    def donates(self) -> bool:
        """Whether a call deletes the state that it is given."""
        return bool(self.donate)

    def donating(self) -> TrainStep:
        """The step for a loop that keeps no state: where `donate` is `None`, one that donates.

        It counts as the same step: programs, their number and the skipped steps are in common.
        """
        if self.donate is not None:
            return self
        if self._donating is None:
            self._donating = dataclasses.replace(self, donate=True)
            for name in ("_compiled", "_accepted", "_in_flight", "_limit", "_flags"):
                setattr(self._donating, name, getattr(self, name))
        return self._donating

    # -- placing the state and the batch -------------------------------------------------------

    def place(self, state: TrainState) -> TrainState:
        """A copy of the state on this placement's devices, ready for the step.

        It accepts a state on any devices: new, restored, or placed on another mesh. The result
        shares no buffers with the caller's arrays, for every value of `donate`.
        """
        steps.state(state)
        validation.params_are_floating(state.params)
        state = jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x), state)
        same_leaves(state, "state", "create it with the same seed in every process.")
        there = from_whole(state, self.placement.state_shardings(state))
        prepared = jax.eval_shape(self.prepared, there)
        shardings = self.placement.state_shardings(prepared)
        # `device_put` returns the caller's buffers if they are on the right devices already, and
        # donating those would delete the caller's arrays. A copy inside `jit` has its own buffers.
        placed = jax.jit(self.prepared, out_shardings=shardings)(there)
        # JAX may read NumPy arrays where they are; the caller may write to them after this returns.
        return jax.block_until_ready(placed)

    def place_batch(self, batch: PyTree) -> PyTree:
        """The batch on the devices, sharded for the step; each process passes its share."""
        self._check(batch, jax.process_count())
        return from_shares(batch, self.placement.batch_sharding(self._axis), self._axis)

    def _check(self, batch: PyTree, processes: int) -> None:
        steps.batch(batch, self.placement, self.microbatches, self.steps_per_call, processes)

    def prepared(self, state: TrainState) -> TrainState:
        """The state with the dtypes and guard counters that `place` sets; a pure function."""
        params = self.precision.to_param(state.params)
        opt_state = state.opt_state
        if self.precision.param is not None:
            with jax.numpy_dtype_promotion("standard"):
                like = jax.eval_shape(self.tx.init, params)
            steps.optimizer_state(like, opt_state)
            opt_state = jax.tree.map(
                lambda x, new: x.astype(new.dtype) if x.shape == new.shape else x, opt_state, like
            )
        state = state.replace(
            params=params, opt_state=opt_state, guard=self.guard.init(state.guard)
        )
        # The copies also drop weak types, which would make the second step compile again.
        return jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype, copy=True), state)

    # -- compiling ---------------------------------------------------------------------------

    def lower(self, state: TrainState, batch: PyTree) -> jax.stages.Lowered:
        """The step for these shapes, traced and lowered; arrays or `jax.ShapeDtypeStruct`s."""
        self._check(batch, 1)
        validation.params_are_floating(state.params)
        prepared = jax.eval_shape(self.prepared, state)
        shapes = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            prepared,
            self.placement.state_shardings(prepared),
        )
        shaped = jax.tree.map(shape_of, batch)
        wanted = [jax.ShapeDtypeStruct((), bool)] if self.norms is None else []
        return self.placement.lower(
            self.program, shapes, shaped, *wanted, axis=self._axis, donate=self.donates
        )

    def refuse(self, state: TrainState, batch: PyTree) -> Metrics:
        """Raises the errors that a first call with these arguments would, without compiling.

        The lowered program is kept for `compile`.

        Returns:
          The shapes of the metrics.
        """
        steps.state(state)
        batch = jax.tree.map(shape_of, batch)
        self._check_optimizer(state)
        key = signature(jax.eval_shape(self.prepared, state)), signature(batch), self.donates
        lowered = self.lower(state, batch)
        self._compiled.keep(key, lowered)
        return lowered.out_info[1]

    def _check_optimizer(self, state: TrainState) -> None:
        with jax.numpy_dtype_promotion("standard"):
            like = jax.eval_shape(self.tx.init, state.params)
        steps.optimizer_state(like, state.opt_state)

    def compile(self, state: TrainState, batch: PyTree) -> jax.stages.Compiled:
        """Compiles the step for these shapes ahead of time, for later calls with these shapes.

        It takes arrays or `jax.ShapeDtypeStruct`s, runs nothing on a device, and may run in another
        thread during training. The result has `cost_analysis()`, `memory_analysis()` and
        `as_text()`.
        """
        shapes = signature(jax.tree.map(shape_of, batch))
        known = self._known.get((signature(state), shapes))
        if known is not None:
            return known
        key = signature(jax.eval_shape(self.prepared, state)), shapes
        compiled = self._compiled.get((*key, self.donates), lambda: self.lower(state, batch))
        # A state with this signature has the dtypes of `place`, so calls need not check it again.
        self._known[key] = compiled
        self._accepted.add(key[0])
        return compiled

    @property
    def compiles(self) -> int:
        """The number of compiled programs: one for each combination of shapes."""
        return len(self._compiled)

    # -- running -----------------------------------------------------------------------------

    def __call__(
        self, state: TrainState, batch: PyTree, *, norms: bool = False
    ) -> tuple[TrainState, Metrics]:
        """One call: `steps_per_call` steps.

        `norms`: whether the metrics are to have the norms, where the option `norms` is `None`.
        """
        self._limit.check(wait=False)
        if not (alone() or is_placed(batch, self.placement.everywhere)):
            batch = self.place_batch(batch)
        # The state that the last call returned needs no check.
        known, shapes = self._last
        if known is None or state is None or known() is not state:
            state, shapes = self._accept(state)
        key = shapes, self._batch_signature(batch)
        compiled = self._known.get(key) or self.compile(state, batch)
        try:
            fed = self.placement.feed(owned(batch), self._axis)
            state, metrics = compiled(state, fed, *self.wanted(norms))
        except (ValueError, RuntimeError) as error:
            if "deleted" in str(error):  # before this call: what fails in it leaves none alive
                steps.alive(state)
            on_devices.batch_devices(batch, self.placement)
            raise
        if self.norms is None and not norms:
            metrics = {name: value for name, value in metrics.items() if name not in NORMS}
        self._in_flight.add(metrics["loss"])
        self._last = weakref.ref(state), shapes
        if self.guard.limit is not None:
            self._limit.add(metrics.pop("skipped_in_a_row"))
        return state, metrics

    def wanted(self, norms: bool) -> list[jax.Array]:
        """The argument of the program that says whether norms are wanted, if it takes one."""
        if self.norms is not None:
            return []
        if norms not in self._flags:
            self._flags[norms] = jax.device_put(np.bool_(norms), self.placement.everywhere)
        return [self._flags[norms]]

    def _accept(self, state: TrainState) -> tuple[TrainState, Any]:
        steps.state(state)
        validation.params_are_floating(state.params)
        if on_devices.is_fresh(state):
            state = self.place(state)
        shapes = signature(state)
        on_devices.placed(state, self.placement)
        if shapes not in self._accepted:
            prepared = jax.eval_shape(self.prepared, state)
            validation.same_structure(prepared, state, "state", "step.place")
            self._check_optimizer(state)
            self._accepted.add(shapes)
        return state, shapes

    def _batch_signature(self, batch: PyTree) -> Any:
        try:
            return signature(batch)
        except AttributeError:
            self._check(batch, 1)
            raise

    def check(self) -> None:
        """Waits for pending steps; raises `NonFiniteError` if more are skipped than allowed.

        Every call also checks, without waiting, the counts that are ready, so that the error comes
        one to three calls late. Call this method after the last step.
        """
        self._limit.check(wait=True)
