"""`rule`: adds checks, dtypes and stored arguments to a factory of transformations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.dtypes import cast_like, is_float, own, upcast, widest
from trainkit._core.paths import named_leaves, path_name

PyTree = Any
P = ParamSpec("P")

# The names under which states keep trees that mirror the parameters.
_SLOTS = ("mu", "nu", "trace", "ema", "sum_of_squares", "z", "v", "momentum", "accumulated")
_FIRST = ("mu", "trace", "ema", "momentum")  # those of the gradients themselves

MASKS = ("mask", "weight_decay_mask")


class Rule(optax.GradientTransformationExtraArgs):
    """A gradient transformation that stores its factory and arguments.

    Attributes:
      name: the factory's name, for messages.
      factory: the undecorated factory.
      arguments: the arguments it was called with, defaults included.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    arguments: dict[str, Any]
    needs_params: bool

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that are numbers or schedules, which can be changed during a run."""
        return numbers_of(self.arguments)


def numbers_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Name -> value of the arguments that are hyper-parameters: numbers or schedules."""
    return {
        name: value
        for name, value in arguments.items()
        if name in validation.HYPERPARAMETERS
        and (callable(value) or validation.concrete(value) is not None)
    }


@overload
def rule(
    factory: Callable[P, Any], *, needs_params: bool = False, name: str | None = None
) -> Callable[P, Rule]: ...
@overload
def rule(
    *, needs_params: bool = False, name: str | None = None
) -> Callable[[Callable[P, Any]], Callable[P, Rule]]: ...
def rule(
    factory: Callable[..., Any] | None = None,
    *,
    needs_params: bool = False,
    name: str | None = None,
) -> Any:
    """A decorator that makes a factory of gradient transformations a factory of `Rule`s.

    The factory checks its hyper-parameters. The rule checks that trees match, computes in float32
    or wider, returns updates in the dtypes of the gradients, and keeps the structure, shapes and
    dtypes of its state, in separate buffers. Messages use the name of the factory, or `name` if it
    has none (a `functools.partial`).
    """
    if factory is None:
        return functools.partial(rule, needs_params=needs_params, name=name)
    made = factory
    called = name or made.__name__
    signature = inspect.signature(made)

    @functools.wraps(made)
    def make(*args: Any, **kwargs: Any) -> Rule:
        bound = validation.bound(called, made, args, kwargs)
        check_arguments(signature, bound.arguments, called)
        return _build(made, dict(bound.arguments), called, needs_params)

    return make


def real_only(factory: Callable[P, Any], *, wrapped: bool = True) -> Callable[P, Any]:
    """A factory, under `@rule`, of transformations that refuse complex leaves.

    For rules that have no meaning, or another one than their paper's, for complex gradients. All
    others are equivariant: gradients times e^{iφ} give updates times e^{iφ}. `wrapped`: whether
    Optax's wrapper for complex leaves is advised; it passes no `value_fn` on.
    """
    name = factory.__name__
    other = f", or give optax.contrib.split_real_and_imaginary({name}(…))" if wrapped else ""

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Any:
        tx = factory(*args, **kwargs)

        def init(params: PyTree) -> PyTree:
            for path, leaf in jax.tree_util.tree_leaves_with_path(params):
                if jnp.iscomplexobj(leaf):
                    raise TypeError(
                        f"{name}: params/{path_name(path)} is {leaf.dtype}, but {name} is defined "
                        "for real leaves only. Keep the real and the imaginary part as two "
                        f"leaves{other}."
                    )
            return tx.init(params)

        return type(tx)(init, tx.update)

    return make


def check_arguments(signature: inspect.Signature, given: Mapping[str, Any], of: str) -> None:
    """Refuses arguments of a factory that are not what their names and defaults say."""
    for name, value in given.items():
        default = signature.parameters[name].default
        if value is not None or default is not None:
            validation.hyperparameter(name, value, of)
        if name in validation.HYPERPARAMETERS and callable(value):
            validation.schedule(f"{of}: {name}", value)
        if isinstance(default, bool):
            validation.flag(name, value, of)
        if name == "key":
            validation.random_key(name, value, of)
        mask = name in MASKS and not isinstance(value, bool)
        if mask and isinstance(value, str | int | float):
            raise TypeError(
                f"{of}: {name} must be a tree of bools like the parameters, or a function that "
                f"makes one of them, such as decay_mask, not {value!r}."
            )


def _build(factory: Any, arguments: dict[str, Any], name: str, needs_params: bool) -> Rule:
    inner = optax.with_extra_args_support(factory(**arguments))
    initial, update = guarded(inner, name, needs_params)

    def init(params: PyTree) -> PyTree:
        # Not when it is made: `inject` and `named` are given rules with any schedules.
        _check_numbers(factory, arguments, name)
        check_masks(arguments, params, name)
        return initial(params)

    made = Rule(init, update)
    made.name, made.factory = name, factory
    made.arguments, made.needs_params = arguments, needs_params
    return made


def _check_numbers(factory: Any, arguments: Mapping[str, Any], of: str) -> None:
    """Refuses schedules for what a factory takes only as a number, by its annotations."""
    parameters = inspect.signature(factory).parameters
    for name, value in numbers_of(dict(arguments)).items():
        wanted = str(parameters[name].annotation)
        numbers = "float" in wanted and "Callable" not in wanted and "Schedule" not in wanted
        if callable(value) and numbers:
            raise TypeError(
                f"{of}: {name} must be a number, not a schedule; inject (or named) gives it one: "
                f"trainkit.transforms.inject({of}(…, {name}=schedule))."
            )


def check_masks(arguments: Mapping[str, Any], params: PyTree, of: str) -> None:
    """Refuses a mask that has not the leaves of the parameters, or of a part of their tree."""
    for name in MASKS:
        mask = arguments.get(name)
        if mask is None or callable(mask):
            continue
        try:
            jax.tree.map(lambda one, part: None, mask, params)
        except ValueError:
            raise ValueError(
                f"{of}: {name} must be a tree of bools like the parameters, "
                f"{', '.join(map(repr, named_leaves(params)))}, not of "
                f"{', '.join(map(repr, named_leaves(mask)))}; a function that makes one of them, "
                "such as decay_mask, fits every model."
            ) from None


def guarded(
    inner: optax.GradientTransformationExtraArgs,
    name: str,
    needs_params: bool,
    *,
    dtype: Any = None,
) -> tuple[Any, Any]:
    """The checked `init` and `update` of a rule; `dtype` is the dtype of all arithmetic."""
    compute = dtype

    def init(params: PyTree) -> PyTree:
        _check_leaves(params, name)
        state = inner.init(params)
        _check_momentum(state, params, name)
        return own(cast_like(state, state), params)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if needs_params:
            validation.need_params(name, params)
        if params is not None:
            validation.same_tree(updates, params, "parameters", name)
        else:
            _check_slots(updates, state, name)
        dtype = compute
        if dtype is None and widest(updates) != widest(params, state):
            dtype = widest(updates, params, state)
        wide = upcast(updates, dtype)
        mixed = params is not None and [x.dtype for x in jax.tree.leaves(updates)] != [
            x.dtype for x in jax.tree.leaves(params)
        ]
        if mixed and dtype is None:
            # Mixed gradients and parameters are cast to the wider dtype.
            wide = jax.tree.map(
                lambda u, p: u.astype(widest(u, p)) if is_float(u) else u, wide, params
            )
        # Optax mixes int32 counts with float scalars, which strict promotion refuses. All result
        # dtypes are restored below, so no promotion can go unnoticed.
        with jax.numpy_dtype_promotion("standard"):
            new_updates, new_state = inner.update(
                wide,
                upcast(state, dtype),
                None if params is None else upcast(params, dtype),
                **extra,
            )
        return cast_like(new_updates, updates), cast_like(new_state, state)

    return init, update


def _check_leaves(params: PyTree, name: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, str | bytes) or getattr(leaf, "dtype", None) == np.object_:
            raise TypeError(
                f"{name}: params/{path_name(path)} must be a floating array, not {leaf!r:.60}."
            )


def states_of(kind: type, state: PyTree) -> list[Any]:
    """All states of a class in an optimizer state or a `TrainState`."""
    is_one = lambda x: isinstance(x, kind)
    leaves = jax.tree.leaves(getattr(state, "opt_state", state), is_leaf=is_one)
    return [x for x in leaves if is_one(x)]


def _slots(node: Any) -> Iterator[tuple[str, PyTree]]:
    """Name and tree of the slots that mirror the parameters."""
    if hasattr(node, "_fields"):
        for field in node._fields:
            value = getattr(node, field)
            if field in _SLOTS and _mirrors(value):
                yield field, value
            elif isinstance(value, tuple):
                yield from _slots(value)
    elif isinstance(node, tuple):
        for child in node:
            yield from _slots(child)


def _mirrors(value: Any) -> bool:
    # Only plain slots can be compared. (With factored slots, the parameters are compared.)
    return not any(leaf is None for leaf in jax.tree.leaves(value, is_leaf=lambda x: x is None))


def _check_slots(updates: PyTree, state: PyTree, name: str) -> None:
    for field, value in _slots(state):
        validation.same_tree(updates, value, f"state ({field})", name)


def _check_momentum(state: PyTree, params: PyTree, name: str) -> None:
    """Refuses a real momentum of a complex leaf, which has lost the imaginary part."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not any(jnp.iscomplexobj(p) for _, p in leaves):
        return
    for field, value in _slots(state):
        held: list[Any] = jax.tree.leaves(value)
        if field not in _FIRST or len(held) != len(leaves):
            continue
        for (path, p), m in zip(leaves, held, strict=True):
            if jnp.iscomplexobj(p) and not jnp.iscomplexobj(m):
                raise TypeError(
                    f"{name}: params/{path_name(path)} is {p.dtype}, but its momentum would be "
                    f"kept in {m.dtype}, without the imaginary part. Give a complex dtype, or "
                    "None for that of the parameters."
                )
