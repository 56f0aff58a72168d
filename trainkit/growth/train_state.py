"""Growing a whole training state: depth, then width, with all that a run carries."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from trainkit.growth.applying import grow_leaf
from trainkit.growth.depth import Deepened, deepen, scan_lengths
from trainkit.growth.errors import GrowthError
from trainkit.growth.layers import align, order
from trainkit.growth.leaf import LeafGrowth
from trainkit.growth.models import Traced, inputs_from, traced
from trainkit.growth.moments import Origin, grow_opt_state
from trainkit.growth.operators import Operator, operator
from trainkit.growth.paths import named_leaves, path_name
from trainkit.growth.planning import plan
from trainkit.growth.realising import noise_groups
from trainkit.growth.slots import Slots
from trainkit.packed import Packed, repack, unpack_all
from trainkit.state import TrainState

PyTree = Any


class Grown(NamedTuple):
    """What `grow` did, for the certificate and for exact continuation.

    Attributes:
      state: the grown state.
      before: the small model's state.
      growth: leaf name of the parameters -> `LeafGrowth`, width and depth together where a leaf is
        stacked over layers.
      origin: leaf name of the parameters -> `Origin`, where layers were added.
      depth: what deepening did, or `None`.
      small, big: the two models' functions.
      inputs: what they were compared on.
    """

    state: TrainState
    before: TrainState
    growth: dict[str, LeafGrowth]
    origin: dict[str, Origin]
    depth: Deepened | None
    small: Traced
    big: Traced
    inputs: tuple[Any, ...]


def grow(
    state: TrainState,
    small: Any,
    big: Any,
    example: Any,
    *,
    tx: optax.GradientTransformation,
    how: str | Operator = "preserve",
    key: jax.Array | int = 0,
    middle: Any = None,
    big_params: PyTree | None = None,
    big_model_state: PyTree | None = None,
    slots: Slots | None = None,
    reset: bool | Sequence[str] = False,
) -> TrainState:
    """The training state of a bigger model that goes on where the small one stands.

    Depth grows first, at the small widths, then width. Parameters, the model's own state (batch
    statistics), the optimizer's moments and averages of the parameters grow together; step and
    random key are carried.

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
        the function.
      key: a random key or a seed; the same key, the same growth.
      middle: the model of the small widths and the big depth, where it cannot be told from the
        two: for NNX, and for plain functions with sizes of their own.
      big_params, big_model_state: arrays or shapes, for plain functions.
      slots, reset: see `trainkit.growth.moments.grow_opt_state`.

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
    grown = grow_with_details(
        state,
        small,
        big,
        example,
        tx=tx,
        how=how,
        key=key,
        middle=middle,
        big_params=big_params,
        big_model_state=big_model_state,
        slots=slots,
        reset=reset,
    ).state
    if not isinstance(state.params, Packed):
        return grown
    params = Packed.pack(grown.params)
    return grown.replace(params=params, opt_state=repack(grown.opt_state, state.opt_state, params))


def grow_with_details(
    state: TrainState,
    small: Any,
    big: Any,
    example: Any,
    *,
    tx: optax.GradientTransformation,
    how: str | Operator = "preserve",
    key: jax.Array | int = 0,
    middle: Any = None,
    big_params: PyTree | None = None,
    big_model_state: PyTree | None = None,
    slots: Slots | None = None,
    reset: bool | Sequence[str] = False,
) -> Grown:
    """`grow`, with what was done; see `trainkit.growth.certificate.certify`.

    A packed state is given back, as is `before`, as the trees that the models take.
    """
    state = unpack_all(state)
    operators = operator(how)
    key = jax.random.key(key) if isinstance(key, int) else key
    inputs = inputs_from(example)
    before = traced(small, inputs, state.params, state.model_state, "small")
    after = traced(big, inputs, big_params, big_model_state or state.model_state, "big")
    variables = {"params": state.params, "model_state": state.model_state}
    _check(before, variables)

    depth: Deepened | None = None
    origin: dict[str, Origin] = {}
    growth: dict[str, LeafGrowth] = {}
    opt_state, params, between = state.opt_state, state.params, before
    target = _middle(small, middle, before, after, inputs, operators.depth, big)
    if target is not None:
        depth = deepen(
            before.fn,
            target.fn,
            variables,
            target.variables,
            *inputs,
            how=operators.depth,
            trainable=lambda name: name.startswith("params/"),
        )
        origin, growth = _params(depth.origin), _params(depth.growth)
        origin = {n: o._replace(leaf=_strip(o.leaf)) for n, o in origin.items()}
        variables, between = depth.params, target
        opt_state = grow_opt_state(
            tx,
            opt_state,
            growth,
            params,
            variables["params"],
            origin=origin,
            slots=slots,
            reset=reset,
        )
        params = variables["params"]

    if _shapes(variables) != _shapes(after.variables):
        found = plan(between.fn, after.fn, _specs(variables), after.variables, *inputs)
        symmetry: Any = operators.width
        wide = found.realise(key, symmetry)
        groups = noise_groups(found) if symmetry == "noise" else {}
        numbers = {leaf.path: i for i, leaf in enumerate(found.leaves)}

        def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            name = path_name(path)
            own = jax.random.fold_in(key, numbers[name])
            return grow_leaf(leaf, wide[name], own, groups.get(name, ()))

        variables = jax.tree_util.tree_map_with_path(one, variables)
        opt_state = grow_opt_state(
            tx,
            opt_state,
            _params(wide),
            params,
            variables["params"],
            slots=slots,
            reset=reset,
        )
        growth = {
            name: _both(growth.get(name), one_leaf) for name, one_leaf in _params(wide).items()
        } | {name: how for name, how in growth.items() if name not in _params(wide)}
    grown = state.replace(
        params=variables["params"], model_state=variables["model_state"], opt_state=opt_state
    )
    return Grown(grown, state, growth, origin, depth, before, after, inputs)


def _middle(
    small: Any,
    middle: Any,
    before: Traced,
    after: Traced,
    inputs: tuple[Any, ...],
    how: str,
    big: Any,
) -> Traced | None:
    """The model of the small widths and the big depth, or `None` if depth does not grow."""
    if middle is not None:
        known = (
            traced(middle, inputs, _like_small(before, after, how)["params"], {}, "middle")
            if (not _is_module(middle))
            else traced(middle, inputs)
        )
        return known
    same_names = list(_shapes(before.variables)) == list(_shapes(after.variables))
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(small, linen.Module) and isinstance(big, type(small)):
        module = _deeper_module(small, big, before, inputs, how)
        return None if module is None else traced(module, inputs)
    if same_names and scan_lengths(before.fn, before.variables, inputs) == scan_lengths(
        after.fn, after.variables, inputs
    ):
        return None
    if same_names:
        raise GrowthError(
            "the two models scan over different numbers of layers, so some leading axes are depth "
            "and not width, but which cannot be told from their shapes",
            mend="give middle=, the model of the small widths and the big depth",
        )
    # A function of its parameters' shapes alone is its own middle model.
    variables = _like_small(before, after, how)
    try:
        jax.eval_shape(after.fn, variables, *inputs)
    except Exception as error:
        raise GrowthError(
            f"the big model cannot be run at the small widths ({type(error).__name__}: {error})",
            mend="give middle=, the model of the small widths and the big depth",
        ) from error
    return Traced(after.fn, variables)


def _is_module(model: Any) -> bool:
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    return (
        (linen is not None and isinstance(model, linen.Module))
        or (nnx is not None and isinstance(model, nnx.Module))
        or hasattr(model, "apply")
    )


def _like_small(before: Traced, after: Traced, how: str) -> PyTree:
    """The big tree with the small model's shapes."""
    small = named_leaves(before.variables)
    # Runs are told by shapes, which differ here; only the names of layers can be used.
    blank = lambda tree: dict.fromkeys(named_leaves(tree), ())
    origin = align(blank(before.variables), blank(after.variables), how)

    def one(path: tuple[Any, ...], spec: Any) -> Any:
        come = origin[path_name(path)]
        return spec if come.leaf is None else small[come.leaf]

    return jax.tree_util.tree_map_with_path(one, after.variables)


def _deeper_module(
    small: Any, big: Any, before: Traced, inputs: tuple[Any, ...], how: str
) -> Any | None:
    """The small Linen module with those of the big one's fields that add layers."""
    changes: dict[str, Any] = {}
    lengths = scan_lengths(before.fn, before.variables, inputs)
    for field in dataclasses.fields(small):
        if field.name in ("parent", "name") or not field.init:
            continue
        old, new = getattr(small, field.name), getattr(big, field.name)
        if old == new:
            continue
        if isinstance(old, tuple | list) and isinstance(new, tuple | list):
            if len(old) != len(new):
                changes[field.name] = _longer(field.name, old, new, how)
            continue
        try:
            tried = traced(small.clone(**{field.name: new}), inputs)
            deeper = list(_shapes(tried.variables)) != list(_shapes(before.variables))
            deeper |= scan_lengths(tried.fn, tried.variables, inputs) != lengths
        except Exception:
            # A width that only fits together with another field's.
            deeper = False
        if deeper:
            changes[field.name] = new
    return small.clone(**changes) if changes else None


def _longer(name: str, old: Sequence[Any], new: Sequence[Any], how: str) -> Any:
    """A tuple of widths made longer with old entries, none above what it becomes."""
    if len(new) < len(old):
        raise GrowthError(f"{name}={old!r} cannot become {new!r}: growth only adds layers")
    for operator_ in (how, "last", "stack", "interpose"):
        made = [old[source] for source, _ in order(len(old), len(new), operator_)]
        numbers = all(isinstance(x, int) for x in [*made, *new])
        if not numbers or all(a <= b for a, b in zip(made, new, strict=True)):
            return tuple(made) if isinstance(old, tuple) else made
    raise GrowthError(
        f"{name}={old!r} cannot become {new!r} by adding layers and widening",
        mend="give middle=, the model of the small widths and the big depth",
    )


def _check(before: Traced, variables: PyTree) -> None:
    expected, found = _shapes(before.variables), _shapes(variables)
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            raise GrowthError(
                f"the state is not the small model's: {name} is {found.get(name, 'missing')} in "
                f"the state and {expected.get(name, 'missing')} in the model",
                params=[name],
                mend="pass the module that this state was trained with as small",
            )


def _both(first: LeafGrowth | None, second: LeafGrowth) -> LeafGrowth:
    """Layers first, then width: they touch different axes."""
    if first is None:
        return second
    axes = tuple(b if b is not None else a for a, b in zip(first.axes, second.axes, strict=True))
    return second._replace(axes=axes)


def _params(of: dict[str, Any]) -> dict[str, Any]:
    return {str(_strip(k)): v for k, v in of.items() if k.startswith("params/")}


def _strip(name: str | None) -> str | None:
    return None if name is None else name.removeprefix("params/")


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree).items()}


def _specs(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
