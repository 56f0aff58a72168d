"""Growing a whole training state: width and depth, with all that a run carries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import named_leaves
from trainkit.adapters.functions import Functions
from trainkit.growth.deepen import relative_change
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.apply import grower, run_on_device
from trainkit.growth.maps.perturb import shrink_and_perturb
from trainkit.growth.models import concrete, functions, inputs_from
from trainkit.growth.operators import Operator, operator
from trainkit.growth.opt_state.grow import grow_opt_state
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.data import Plan
from trainkit.growth.plan.leaf_map import LeafGrowth, Origin
from trainkit.growth.plan.upcycling import lifted, lifted_state
from trainkit.growth.plan.validation import check_key, check_shapes, check_tx
from trainkit.growth.planning import plan
from trainkit.packed import Packed, repack, unpack_all
from trainkit.step.state import TrainState

PyTree = Any
P = ParamSpec("P")
_PARAMS = "params/"


class Passage(NamedTuple):
    """From one model's states to another's, found from shapes alone.

    Attributes:
      plan: of the tree `{"params": …, "model_state": …}`.
      growth: leaf name of the parameters -> `LeafGrowth`, width and depth together where a leaf is
        stacked over layers.
      origin: leaf name of the parameters -> `Origin`, where layers were added.
      zeroed: names of leaves (of stacked ones: of new rows) that are 0, for new layers to rest.
      apply: `state -> grown state`, pure and jittable: the same each time it is called.
    """

    plan: Plan
    growth: dict[str, LeafGrowth]
    origin: dict[str, Origin]
    zeroed: tuple[str, ...]
    apply: Callable[[TrainState], TrainState]


class Grown(NamedTuple):
    """What `grow` did, for the certificate and for exact continuation.

    Attributes:
      state: the grown state.
      before: the small model's state.
      growth, origin, zeroed, plan: see `Passage`.
      small, big: the two models' functions.
      inputs: what they were compared on.
    """

    state: TrainState
    before: TrainState
    growth: dict[str, LeafGrowth]
    origin: dict[str, Origin]
    zeroed: tuple[str, ...]
    small: Functions
    big: Functions
    inputs: tuple[Any, ...]
    plan: Plan | None = None


def passage(
    small: Functions,
    big: Functions,
    inputs: tuple[Any, ...],
    *,
    tx: optax.GradientTransformation,
    how: Operator,
    key: jax.Array,
    slots: Slots | None = None,
    reset: bool | str | Sequence[str] = False,
) -> Passage:
    """The way from states of one model to states of another; runs nothing.

    Raises:
      GrowthError: the big model cannot be grown from the small one.
    """
    found = plan(
        small.fn,
        big.fn,
        small.variables,
        big.variables,
        *inputs,
        how=how,
        trainable=lambda name: name.startswith(_PARAMS),
    )
    width: Any = "uneven" if how.width == "perturb" else how.width
    growth = {
        name.removeprefix(_PARAMS): g
        for name, g in found.realise(key, width).items()
        if name.startswith(_PARAMS)
    }
    origin = {
        name.removeprefix(_PARAMS): Origin(come.leaf and come.leaf.removeprefix(_PARAMS), come.new)
        for name, come in found.origin.items()
        if name.startswith(_PARAMS)
    }

    # Modules that carry their sizes, as Equinox's do, are other containers at other sizes.
    sides = (jax.tree.structure(side.variables) for side in (small, big))
    like = None if len(set(sides)) == 1 else big.variables

    def apply(state: TrainState) -> TrainState:
        variables = {"params": state.params, "model_state": state.model_state}
        values = None if big.init is None else big.init(key, *inputs)
        new = grower(found, key, width, like, values)(variables, key)
        params, opt_state = state.params, state.opt_state
        if how.width == "perturb":
            start = None if values is None else values["params"]
            new["params"] = shrink_and_perturb(new["params"], key, fresh=start)
            return state.replace(
                params=new["params"],
                model_state=new["model_state"],
                opt_state=tx.init(new["params"]),
            )
        if found.depth == "experts" and reset is not True:
            opt_state = lifted_state(tx, opt_state, params, growth, origin)
            params = lifted(params, growth, origin)
        opt_state = grow_opt_state(
            tx,
            opt_state,
            growth,
            params,
            new["params"],
            origin=origin,
            slots=slots,
            reset=reset,
        )
        return state.replace(
            params=new["params"], model_state=new["model_state"], opt_state=opt_state
        )

    zeroed = tuple(name.removeprefix(_PARAMS) for name in found.zeroed)
    return Passage(found, growth, origin, zeroed, apply)


def grow_with_details(
    state: TrainState,
    small: Any,
    big: Any,
    example: Any,
    *,
    tx: optax.GradientTransformation,
    how: str | Operator = "preserve",
    key: jax.Array | int = 0,
    big_params: PyTree | None = None,
    big_model_state: PyTree | None = None,
    slots: Slots | None = None,
    reset: bool | str | Sequence[str] = False,
    donate: bool = False,
    out_shardings: Any = None,
) -> Grown:
    """`grow`, with what was done; see `trainkit.growth.views.certify.certify`.

    A packed state is given back, as is `before`, as the trees that the models take.
    """
    check_tx(tx)
    if not all(hasattr(state, name) for name in ("params", "opt_state", "model_state")):
        raise GrowthError(
            f"state is a {type(state).__name__}, not a TrainState",
            hint="TrainState.create(params, tx), or trainkit.growth.plan for parameters alone",
        )
    state = unpack_all(state)
    key = jax.random.key(key) if isinstance(key, int) else key
    check_key(key)
    inputs = inputs_from(example)
    before = functions(small, inputs, state.params, state.model_state, "small")
    after = functions(big, inputs, big_params, big_model_state or state.model_state, "big")
    _check(before, {"params": state.params, "model_state": state.model_state})
    options: dict[str, Any] = {"tx": tx, "key": key, "slots": slots, "reset": reset}
    try:
        way = passage(before, after, inputs, how=operator(how), **options)
    except GrowthError as error:
        if how != "preserve":
            raise
        other = _unproved(before, after, inputs, state, options, error)
        if other is None:
            raise
        way = other
    grown = run_on_device(way.apply, (state,), out_shardings, state if donate else None)
    return Grown(grown, state, way.growth, way.origin, way.zeroed, before, after, inputs, way.plan)


def _state_of(run: Callable[P, Grown]) -> Callable[P, TrainState]:
    @functools.wraps(run)
    def grow(*args: P.args, **kwargs: P.kwargs) -> TrainState:
        grown = run(*args, **kwargs).state
        state: Any = kwargs["state"] if "state" in kwargs else args[0]
        if not isinstance(state.params, Packed):
            return grown
        params = Packed.pack(grown.params)
        opt_state = repack(grown.opt_state, state.opt_state, params)
        return grown.replace(params=params, opt_state=opt_state)

    grow.__name__ = grow.__qualname__ = "grow"
    return grow


grow = _state_of(grow_with_details)
grow.__doc__ = """The training state of a bigger model that goes on where the small one stands.

    Width and depth grow together: parameters, the model's own state (batch statistics), the
    optimizer's moments and averages of the parameters; step and random key are carried. All of it
    is one compiled program.

    Args:
      state: the small model's state; packed parameters and moments are grown by their tree, and
        packed again.
      small, big: Linen modules; NNX modules, classes or functions that make one; results of
        `trainkit.from_linen` or `from_nnx`; or plain functions `fn(params, *inputs)`, with
        `model_state` second if there is any.
      example: what the models are called with: an array, a tuple of arguments, or a batch. Arrays
        or `jax.ShapeDtypeStruct`s.
      tx: the transformation that `state.opt_state` belongs to.
      how: operators for width and depth by name; see `trainkit.growth.operators`. "preserve" keeps
        the function. A mixture of experts in the place of a dense layer is told by itself where
        the function is kept (the chosen gates sum to 1), and asked for by "experts".
      key: a random key or a seed; the same key, the same growth.
      big_params, big_model_state: arrays or shapes, for plain functions.
      slots, reset: see `trainkit.growth.opt_state.grow.grow_opt_state`.
      donate: whether the buffers of `state` are given up.
      out_shardings: where the grown state lives: a sharding or a `TrainState` of them.

    Raises:
      GrowthError: the big model cannot be grown from the small one; `state` is not the small
        model's; or an optimizer state is unknown.

    >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
    >>> from trainkit import TrainState
    >>> class Net(nn.Module):
    ...     width: int
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         x = nn.relu(nn.Dense(self.width)(x))
    ...         return nn.Dense(2)(x)
    >>> x, tx = jnp.ones((4, 3)), optax.adam(1e-3)
    >>> state = TrainState.create(Net(4).init(jax.random.key(0), x)["params"], tx)
    >>> grown = grow(state, Net(4), Net(6), x, tx=tx)
    >>> grown.params["Dense_0"]["kernel"].shape, grown.opt_state[0].mu["Dense_1"]["kernel"].shape
    ((3, 6), (6, 2))
"""


def _unproved(
    before: Functions,
    after: Functions,
    inputs: tuple[Any, ...],
    state: TrainState,
    options: Any,
    error: GrowthError,
) -> Passage | None:
    """The way from a dense layer to a mixture of experts, or to more key heads for the same
    queries, where outputs stay what they were: no proof, but none of the state's numbers is made
    for it."""
    depth = error.remedy or "experts"
    known = all(isinstance(x, jax.Array | np.ndarray) for x in jax.tree.leaves(state))
    if not known or any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(state)):
        return None
    try:
        way = passage(before, after, inputs, how=Operator(depth=depth), **options)
    except GrowthError:
        return None
    rng = np.random.default_rng(0)
    xs = jax.tree.map(lambda x: concrete(x, rng), inputs)
    sides = (before.fn, state), (after.fn, jax.jit(way.apply)(state))
    a, b = (jax.jit(fn)({"params": s.params, "model_state": s.model_state}, *xs) for fn, s in sides)
    if not all(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(a)):
        return None
    dtypes = {x.dtype for x in jax.tree.leaves(state.params)}
    eps = [float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.inexact)]
    change = relative_change(a, b)
    if change <= min(1e3 * max(eps, default=0.0), 0.1):
        return way
    if depth == "groups":
        return None
    raise GrowthError(
        "the big model has a mixture of experts where the small one has a dense layer, but with "
        f"this layer for every expert outputs change by {change:.1e} of their scale: the gates of "
        "the chosen do not sum to 1",
        params=[name for name, come in way.origin.items() if come.new],
        hint="divide the gates by their sum (or take the softmax over the chosen alone); or accept "
        'the change: how="experts"',
    )


def _check(before: Functions, variables: PyTree) -> None:
    check_shapes(
        variables,
        _shapes(before.variables),
        "the state is not the small model's",
        "pass the module that this state was trained with as small",
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree).items()}
