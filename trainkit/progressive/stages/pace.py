"""The pace of a progressive run: a learning-rate factor for all leaves, and one for each leaf.

All changes of the learning rate are numbers in the optimizer state, so that none of them needs a
new compilation or a restart: the warm-up, the start of the final decay (which the remaining budget
decides at run time), a lowered rate, and a factor for each leaf after a growth: a ramp, which warms
up new leaves and moves copied leaves from the rate of exact continuation to the plain one; and the
bias correction of new leaves, whose moments are younger than the rule's count of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.paths import named_leaves, path_name
from trainkit.progressive.stages.bias_correction import Decays, correction
from trainkit.step.update import with_extra_args

PyTree = Any
NEVER = 2**31 - 1


class LeafPace(NamedTuple):
    """The factor of one leaf since the last growth; numbers, or float32 scalars.

    Attributes:
      start: the factor at `PaceState.ramp_at`.
      over: the number of steps of the ramp; 0: no ramp.
      target: the final factor: 1, or that of the maximal-update parametrisation.
      born: the step before which the leaf's moments began; below 2²⁴, or rounded.
      decays: of its moments; zeros: no bias is corrected.
    """

    start: Any = 1.0
    over: Any = 0.0
    target: Any = 1.0
    born: Any = 0.0
    decays: Decays = Decays()

    def packed(self) -> jax.Array:
        """All in one array [7], float32: a state has one for each leaf."""
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in (*self[:-1], *self.decays)])

    @classmethod
    def of(cls, packed: jax.Array) -> LeafPace:
        """The inverse of `packed`."""
        start, over, target, born, *decays = packed
        return cls(start, over, target, born, Decays(*decays))


class PaceState(NamedTuple):
    """State of `paced`; every field but `inner` may be replaced during a run.

    Attributes:
      hyperparams: {"pace": factor of the last update, float32 scalar}, for the metrics.
      step: int32 scalar, the number of updates.
      level: float32 scalar, a constant factor until it is replaced.
      decay_at: int32 scalar, the step at which the decay begins.
      decay_steps: int32 scalar, the length of the decay to 0.
      ramp_at: int32 scalar, the step at which the ramps of the leaves begin.
      leaves: tree of float32 arrays [7], each leaf's `LeafPace.packed`.
      inner: the state of the wrapped transformation.
    """

    hyperparams: dict[str, jax.Array]
    step: jax.Array
    level: jax.Array
    decay_at: jax.Array
    decay_steps: jax.Array
    ramp_at: jax.Array
    leaves: PyTree
    inner: PyTree


def paced(
    tx: optax.GradientTransformation, *, warmup: int = 0
) -> optax.GradientTransformationExtraArgs:
    """A gradient transformation that multiplies the updates u of `tx` by the pace:

      u ← level · warm · (1 − clip((t − decay_at) / decay_steps, 0, 1)) · m_leaf · u
      warm = min(1, (t + 1) / warmup)
      m_leaf = (start + (target − start) · clip((t + 1 − ramp_at) / over, 0, 1)) · bias
      bias = `correction(decays, t + 1, t + 1 − born)`

    Decoupled weight decay is part of u and is paced with it, as a scheduled learning rate would.
    A rule that takes outer steps (`trainkit.transforms.lookahead`) has its inner steps paced, not
    the jump to its slow weights: it gets `pace`, which multiplies updates by the above, and applies
    it where they arise.

    Args:
      tx: any gradient transformation.
      warmup: the number of steps over which the pace rises from 1 / warmup to 1; 0: no warm-up.

    Raises:
      ValueError: `warmup` is not an integer of at least 0; a lookahead has leaves that are not
        the parameters'.

    >>> tx = paced(optax.sgd(1.0))
    >>> state = begin_decay(tx.init({"w": jnp.zeros(())}), at=1, steps=2)
    >>> for _ in range(4):
    ...     updates, state = tx.update({"w": jnp.ones(())}, state, {"w": jnp.zeros(())})
    ...     print(float(updates["w"]))
    -1.0
    -1.0
    -0.5
    -0.0

    Reference: Hu et al., MiniCPM, 2024 (warmup-stable-decay).
    """
    validation.integer("warmup", warmup, least=0)
    inner_tx = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> PaceState:
        return PaceState(
            hyperparams={"pace": jnp.ones((), jnp.float32)},
            step=jnp.zeros((), jnp.int32),
            level=jnp.ones((), jnp.float32),
            decay_at=jnp.full((), NEVER, jnp.int32),
            decay_steps=jnp.ones((), jnp.int32),
            ramp_at=jnp.zeros((), jnp.int32),
            # Distinct arrays: a buffer that appears twice cannot be donated.
            leaves=jax.tree.map(lambda _: LeafPace().packed(), params),
            inner=inner_tx.init(params),
        )

    def update(
        updates: PyTree,
        state: PaceState,
        params: PyTree = None,
        *,
        pace: Callable[[PyTree], PyTree] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, PaceState]:
        level = pace_of(state, warmup)
        factors, inside = _factors(state, level), set[str]()

        def paced_inside(tree: PyTree) -> PyTree:
            names = _known(tree, factors)
            inside.update(names)
            own = _scaled(tree, factors, names)
            return own if pace is None else pace(own)  # of what is around this

        # Wrapped here: a step looks for learning rates in what this function closes over.
        updates, inner = with_extra_args(inner_tx)(
            updates, state.inner, params, **extra, pace=paced_inside
        )
        updates = _scaled(updates, factors, set(factors) - inside)
        step = jnp.minimum(state.step, NEVER - 1) + 1
        return updates, state._replace(hyperparams={"pace": level}, step=step, inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _factors(state: PaceState, pace: jax.Array) -> dict[str, jax.Array]:
    """Name of a leaf -> the factor of its next update, a float32 scalar."""
    steps = (state.step + 1).astype(jnp.float32)
    since = (state.step + 1 - state.ramp_at).astype(jnp.float32)

    def factor(packed: jax.Array) -> jax.Array:
        leaf = LeafPace.of(packed)
        share = jnp.clip(since / jnp.maximum(leaf.over, 1e-9), 0.0, 1.0)
        bias = correction(leaf.decays, steps, steps - leaf.born)
        return pace * (leaf.start + (leaf.target - leaf.start) * share) * bias

    # Behind a barrier: else XLA computes the powers anew in the loop over each leaf's entries.
    return jax.lax.optimization_barrier(
        {name: factor(packed) for name, packed in named_leaves(state.leaves).items()}
    )


def _known(tree: PyTree, factors: Mapping[str, Any]) -> set[str]:
    """The names of the leaves of a tree, each of which is a parameter."""
    names = set(named_leaves(tree))
    if strange := sorted(names - set(factors)):
        raise ValueError(
            f"progressive: lookahead has the leaf {strange[0]!r}, which is none of the parameters, "
            "so its pace is unknown. Rearrange the leaves inside of it: "
            "lookahead(optax.flatten(tx)), not optax.flatten(lookahead(tx))."
        )
    return names


def _scaled(tree: PyTree, factors: Mapping[str, jax.Array], names: set[str]) -> PyTree:
    """The tree, its leaves of these names multiplied by their factors."""

    def scale(path: Any, u: jax.Array) -> jax.Array:
        name = path_name(path)
        return u * factors[name].astype(u.dtype) if name in names else u

    return jax.tree_util.tree_map_with_path(scale, tree)


def pace_of(state: PaceState, warmup: int = 0) -> jax.Array:
    """The factor of the next update, a float32 scalar, without the factors of the leaves."""
    step = state.step.astype(jnp.float32)
    decayed = (state.step - state.decay_at).astype(jnp.float32) / state.decay_steps.astype(
        jnp.float32
    )
    pace = state.level * (1 - jnp.clip(decayed, 0.0, 1.0))
    return pace * jnp.minimum(1.0, (step + 1) / warmup) if warmup else pace


def begin_decay(state: PaceState, *, at: int | jax.Array, steps: int) -> PaceState:
    """A state whose decay to 0 begins at step `at` and takes `steps` steps."""
    validation.integer("steps", steps, "begin_decay")
    return state._replace(
        decay_at=_like(at, state.decay_at), decay_steps=_like(steps, state.decay_steps)
    )


def lower(state: PaceState, factor: float) -> PaceState:
    """A state whose learning rate is multiplied by `factor` from now on."""
    return state._replace(level=state.level * jnp.asarray(factor, state.level.dtype))


def after_growth(state: PaceState, inner: PyTree, leaves: PyTree) -> PaceState:
    """The state for grown leaves: the pace is kept, and the ramp of each leaf begins now.

    Args:
      state: the state for the small model.
      inner: the grown state of the wrapped transformation.
      leaves: the grown parameters' tree, with a `LeafPace` for each leaf.
    """
    is_leaf = lambda x: isinstance(x, LeafPace)
    packed = jax.tree.map(LeafPace.packed, leaves, is_leaf=is_leaf)
    return state._replace(inner=inner, ramp_at=state.step, leaves=packed)


def _like(value: int | jax.Array, old: jax.Array) -> jax.Array:
    if isinstance(old, jax.core.Tracer):
        return jnp.asarray(value, old.dtype)
    # On the sharding of the old value; otherwise the step would compile again.
    return jax.device_put(jnp.asarray(value, old.dtype), old.sharding)
