"""The end of a round: one state and one row of metrics from those of all replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import path_name
from trainkit._core.rounds import OUTER, Round, takes_outer_steps
from trainkit.placement import Periodic
from trainkit.placement.reduce import psum, same_everywhere
from trainkit.placement.replicas import first, mean, shares
from trainkit.step.guard import Guard
from trainkit.step.state import TrainState
from trainkit.step.update import nonzero, with_extra_args

PyTree = Any
Metrics = dict[str, jax.Array]
# Fields of states that are no vectors: the mean of two bases is none.
BASES = ("basis", "projector")


def make_round_end(
    tx: optax.GradientTransformation, guard: Guard, place: Periodic, steps: int
) -> Callable[[TrainState, TrainState, Metrics, PyTree], tuple[TrainState, Metrics]]:
    """`end(before, after, metrics, totals) -> (state, metrics)`, the same on every replica.

    Args of the result:
      before: the state at the start of the round, which all replicas have.
      after: the state of this replica after its inner steps.
      metrics: of its inner steps.
      totals: name -> (Σ total, Σ weight) of the loss and its metrics, at each of its inner steps.
    """
    transform, axes = with_extra_args(tx), place.batch_axes
    over = Round(steps, over=True)

    def end(
        before: TrainState, after: TrainState, metrics: Metrics, totals: PyTree
    ) -> tuple[TrainState, Metrics]:
        summed = psum(totals, axes)
        share = shares(jnp.sum(totals["loss"][1]), jnp.sum(summed["loss"][1]), axes)
        params = mean(before.params, after.params, share, axes)
        opt_state = _optimizer_states(before.opt_state, after.opt_state, share, place)
        params, opt_state = _outer_step(transform, over, params, opt_state)
        state = after.replace(
            params=params,
            model_state=jax.tree.map(lambda x: same_everywhere(x, axes), after.model_state),
            opt_state=opt_state,
            guard=guard.of_replicas(before.guard, after.guard, axes),
        )
        return state, _metrics(metrics, summed, guard, before, axes)

    return end


def _metrics(
    metrics: Metrics, summed: PyTree, guard: Guard, before: TrainState, axes: tuple[str, ...]
) -> Metrics:
    """The loss and its metrics over the examples of all replicas; of the rest the mean."""
    counters = {"skipped_steps": "skipped", "skipped_in_a_row": "in_a_row"}
    counted = {own: metrics[name] for name, own in counters.items() if name in metrics}
    joined = guard.of_replicas(before.guard, counted, axes)
    own = {name: total / nonzero(weight) for name, (total, weight) in summed.items()}
    found = {name: joined[counters[name]] for name in metrics if name in counters} | own
    return {
        name: found[name] if name in found else same_everywhere(x, axes)
        for name, x in metrics.items()
    }


def _optimizer_states(before: PyTree, after: PyTree, share: jax.Array, place: Periodic) -> PyTree:
    """One optimizer state; what only outer steps change is the same everywhere already."""

    def join(old: PyTree, new: PyTree) -> PyTree:
        if place.moments == "first":
            return first(new, place.batch_axes)
        return mean(old, new, share, place.batch_axes)

    def one(old: Any, new: Any) -> Any:
        if not takes_outer_steps(new):
            return join(old, new)
        inner = [name for name in new._fields if name not in OUTER]
        return new._replace(**{n: join(getattr(old, n), getattr(new, n)) for n in inner})

    if place.moments == "mean":
        _have_a_mean(after)
    return jax.tree.map(one, before, after, is_leaf=takes_outer_steps)


def _have_a_mean(opt_state: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        names = path_name(path).split("/")
        codes = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.dtype.itemsize < 4 and leaf.ndim
        if codes or any(name in BASES for name in names):
            raise ValueError(
                f"opt_state/{path_name(path)}, {leaf.dtype}{list(leaf.shape)}, has no mean over "
                "the replicas. Give placement=trainkit.placement.periodic(moments='first'), which "
                "goes on with the optimizer state of the first."
            )


def _outer_step(
    transform: Callable[..., Any], over: Round, params: PyTree, opt_state: PyTree
) -> tuple[PyTree, PyTree]:
    """The outer step of every transformation that takes one, wherever it is in the rule.

    The whole rule is called, but only the states of these are kept. So what is around them, such
    as a factor on all updates, counts no step, and does not change this one.
    """
    leaves = jax.tree.leaves(opt_state, is_leaf=takes_outer_steps)
    if not any(map(takes_outer_steps, leaves)):
        return params, opt_state
    zeros = jax.tree.map(jnp.zeros_like, params)
    zero, one = jnp.zeros(()), jnp.ones(())
    with jax.numpy_dtype_promotion("standard"):  # see `update`
        _, stepped = transform(
            zeros, opt_state, params, value=zero, grad=zeros, weight=one, round=over,
            value_fn=lambda params, **_: zero,
        )  # fmt: skip

    def moved(old: Any, new: Any) -> Any:
        return new if takes_outer_steps(old) else old

    opt_state = jax.tree.map(moved, opt_state, stepped, is_leaf=takes_outer_steps)
    for node in filter(takes_outer_steps, jax.tree.leaves(opt_state, is_leaf=takes_outer_steps)):
        masked = lambda x: isinstance(x, optax.MaskedNode)
        params = jax.tree.map(
            lambda slow, p: p if masked(slow) else slow.astype(p.dtype),
            node.slow, params, is_leaf=masked,
        )  # fmt: skip
    return params, opt_state
