"""Models as pure functions of their variables, from modules or plain functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves
from trainkit.adapters.batches import inputs_of
from trainkit.adapters.functions import Functions, bare, functions_of
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.forms import unboxed

PyTree = Any


def functions(
    model: Any,
    inputs: tuple[Any, ...],
    params: PyTree | None = None,
    model_state: PyTree | None = None,
    what: str = "the model",
) -> Functions:
    """The function of a Linen module, an NNX module or factory, a `Model`, or a plain function.

    Nothing is run or allocated.

    Args:
      model: the model.
      inputs: its inputs, arrays or shapes.
      params, model_state: arrays or shapes; needed for plain functions only.
      what: the name of the model in messages.

    Raises:
      GrowthError: a plain function without `params`, or an object of another type.
    """
    try:
        found = functions_of(model, inputs, factory=params is None)
    except TypeError as error:
        raise GrowthError(f"{what}: {error}") from error
    if found is not None:
        return found
    if not callable(model):
        raise GrowthError(
            f"{what} is a {type(model).__name__}; it must be a Linen module, an NNX module or a "
            "function that makes one, or a function fn(params, *inputs)"
        )
    if any(base.__module__.startswith("equinox.") for base in type(model).__mro__):
        raise GrowthError(
            f"{what} is an Equinox module, whose arrays are its parameters",
            hint="with p, s = eqx.partition(module, eqx.is_array) of both, pass the functions "
            "lambda p, x: eqx.combine(p, s)(x), and big_params= the big module's p",
        )
    if params is None:
        raise GrowthError(
            f"{what} is a plain function, so the shapes of its parameters are unknown",
            hint="pass big_params= (arrays or jax.ShapeDtypeStruct)",
        )
    spec = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    variables = {"params": spec(params), "model_state": spec(model_state or {})}
    if jax.tree.leaves(variables["model_state"]):
        fn = lambda v, *xs: model(v["params"], v["model_state"], *xs)
    else:
        fn = lambda v, *xs: model(v["params"], *xs)
    return Functions(fn, variables)


def in_boxes_of(params: PyTree, model: Functions) -> Functions:
    """A model whose variables are in boxes only if these parameters are."""
    names = named_leaves(params).keys() if isinstance(model.variables, dict) else ()
    inside = named_leaves(model.variables["params"]).keys() if names else ()
    boxed = any(unboxed(name) != name for name in inside)
    return bare(model) if boxed and not any(unboxed(name) != name for name in names) else model


def inputs_from(example: Any, model: Any = None) -> tuple[Any, ...]:
    """The inputs in an example: what a `Model` takes of its batch; a tuple's items; a batch's usual
    key; a `trainkit.Call`, or the example itself."""
    if example is None or isinstance(example, str | bytes):
        raise GrowthError(
            f"example is {example!r}; it must be what the models are called with: an array, a "
            "tuple of arguments, or a batch"
        )
    if isinstance(example, dict):
        example = getattr(model, "inputs", inputs_of(None))(example)
    inputs = tuple(example) if type(example) in (tuple, list) else (example,)
    return jax.tree.map(_array, inputs)


def _array(x: Any) -> Any:
    """An input in a dtype that JAX has: float64 of NumPy is float32 without x64, as in a step."""
    if isinstance(x, np.ndarray):
        return x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
    return x if hasattr(x, "dtype") else jnp.asarray(x)
