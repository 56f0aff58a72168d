"""Restoring a checkpoint into a bigger model by growing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from trainkit.loop.saved.leaves import data_of, leaves_by_name
from trainkit.loop.transfer.filling import filled
from trainkit.loop.transfer.opt_state import PARAMS
from trainkit.loop.transfer.request import Request
from trainkit.loop.transfer.restored import Restored
from trainkit.loop.transfer.selection import Patterned, is_subtree
from trainkit.step.state import TrainState

PyTree = Any


class Grows(Protocol):
    """The interface of a `GrowthMap`, the result of `trainkit.growth.plan(...).realise(key)`."""

    leaves: Mapping[str, Any]

    def params(self, params: PyTree) -> PyTree: ...
    def opt_state(self, tx: Any, opt_state: PyTree, params: PyTree, grown: PyTree) -> PyTree: ...
    def state(self, tx: Any, state: TrainState) -> TrainState: ...


Growth = Grows | Callable[[Any], Any]


def grown(request: Request, step: int, grow: Growth) -> Restored:
    """The result of a request, for a step whose model is grown first."""
    alone = is_subtree(request.only, [f"{request.only}/"])
    if not alone and request.tx is None:
        raise ValueError('grow= makes a whole state, which needs tx=; or pass only="params".')
    plain = dataclasses.replace(
        request, into=None, fresh=Patterned(()), cast=False, tx=None if alone else request.tx
    )
    small = plain.restored(step)
    big = _applied(grow, request.tx, small.state)
    before, after = leaves_by_name(small.state), leaves_by_name(big)
    shape = lambda leaf: list(data_of(leaf).shape)
    changed = {
        name: (shape(before[name]) if name in before else None, shape(leaf))
        for name, leaf in after.items()
        if name not in before or shape(before[name]) != shape(leaf)
    }
    taken = {name: small.taken.get(name, name) for name in after}
    found = dataclasses.replace(small, state=big, taken=taken, grown=changed)
    return found if request.into is None else _into(request, step, found, after)


def _into(request: Request, step: int, big: Restored, leaves: Mapping[str, Any]) -> Restored:
    """The grown leaves in the tree `into`, whose leaves may have the subtree's name as a prefix."""
    ours = leaves_by_name(request.into)
    top = f"{request.only}/"
    named = {n: f"{top}{n}" if f"{top}{n}" in ours else n for n in leaves}
    after = {named[n]: leaf for n, leaf in leaves.items()}
    whole = named.keys() != after.keys()
    wanted = request.wanted("" if whole or request.only is None else str(request.only))
    found = request.match(after, request.into, {n: n for n in after}, wanted, step)
    values = {n: after[n] for n in found.taken}
    taken = {new: big.taken[n] for n, new in named.items() if new in found.taken}
    return dataclasses.replace(
        big,
        state=filled(request.into, values, request.tx if found.begun else None, new=False),
        taken=taken,
        kept=tuple(n for n in ours if n not in found.taken and n not in found.begun),
        begun=found.begun,
        cast=found.cast,
        grown={named[n]: shapes for n, shapes in big.grown.items()},
    )


def _applied(grow: Any, tx: Any, small: PyTree) -> PyTree:
    if not hasattr(grow, "opt_state"):
        leaves = leaves_by_name(big := grow(small)).values()
        if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
            raise TypeError(f"grow must return the bigger model's arrays, not {big!r:.60}.")
        return big
    if not isinstance(small, TrainState):
        return grow.params(jax.tree.map(jnp.asarray, small))
    if any(name.startswith(f"{PARAMS}/") for name in grow.leaves):
        return grow.state(tx, small)
    params = grow.params(small.params)
    return small.replace(
        params=params, opt_state=grow.opt_state(tx, small.opt_state, small.params, params)
    )
