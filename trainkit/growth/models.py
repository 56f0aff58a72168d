"""What a model is to growth: a function of its variables, and the shapes of these."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.errors import GrowthError

PyTree = Any


class Traced(NamedTuple):
    """A model in evaluation mode.

    Attributes:
      fn: `fn({"params": …, "model_state": …}, *inputs)`.
      variables: shapes of that tree.
      init: `init(key, *inputs)`, initial values of that tree, where the model knows them.
    """

    fn: Callable[..., PyTree]
    variables: PyTree
    init: Callable[..., PyTree] | None = None


def traced(
    model: Any,
    inputs: tuple[Any, ...],
    params: PyTree | None = None,
    model_state: PyTree | None = None,
    what: str = "the model",
) -> Traced:
    """The function of a Linen module, an NNX module or factory, a `Model`, or a plain function.

    `params` and `model_state` are needed for plain functions only. Nothing is run or allocated.

    Raises:
      GrowthError: a plain function without parameters, or something else altogether.
    """
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(model, linen.Module):
        return _linen(model, inputs)
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and (
        isinstance(model, nnx.Module) or (inspect.isclass(model) and issubclass(model, nnx.Module))
    ):
        return _nnx(model)
    if hasattr(model, "init") and hasattr(model, "apply") and hasattr(model, "inputs"):
        return _model(model, inputs)
    if inspect.isclass(model) and linen is not None and issubclass(model, linen.Module):
        raise GrowthError(
            f"{what} is the class {model.__name__}", mend=f"pass a module, {model.__name__}(…)"
        )
    if not callable(model):
        raise GrowthError(
            f"{what} is a {type(model).__name__}; it must be a Linen module, an NNX module or a "
            "function that makes one, or a function fn(params, *inputs)"
        )
    if params is None:
        if nnx is not None and _required(model) <= {"rngs"}:
            return _nnx(model)
        raise GrowthError(
            f"{what} is a plain function, so the shapes of its parameters are not known",
            mend="pass big_params= (arrays or jax.ShapeDtypeStruct)",
        )
    spec = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    variables = {"params": spec(params), "model_state": spec(model_state or {})}
    if jax.tree.leaves(variables["model_state"]):
        fn = lambda v, *xs: model(v["params"], v["model_state"], *xs)
    else:
        fn = lambda v, *xs: model(v["params"], *xs)
    return Traced(fn, variables)


def inputs_from(example: Any) -> tuple[Any, ...]:
    """The inputs in an example: a tuple's items, a batch's usual key, or the example itself."""
    if isinstance(example, dict):
        from trainkit.model import inputs_of

        example = inputs_of(None)(example)
    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    return jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x), inputs)


def concrete(x: Any, rng: np.random.Generator) -> Any:
    """An input, drawn at random if only its shape is known."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return x
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)
    return jnp.asarray(rng.integers(0, 2, x.shape), x.dtype)


def _required(fn: Callable[..., Any]) -> set[str]:
    return {
        name
        for name, p in inspect.signature(fn).parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def _linen(module: Any, inputs: tuple[Any, ...]) -> Traced:
    from trainkit.linen import MODES

    known = inspect.signature(type(module).__call__).parameters
    mode = {name: not train for name, train in MODES.items() if name in known}

    def init(key: jax.Array, *xs: Any) -> PyTree:
        keys = {n: jax.random.fold_in(key, i) for i, n in enumerate(("params", "dropout"))}
        xs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), xs)
        with jax.numpy_dtype_promotion("standard"):
            variables = dict(module.init(keys, *xs, **mode))
        return {"params": variables.pop("params", {}), "model_state": variables}

    def fn(v: PyTree, *xs: Any) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):
            return module.apply({"params": v["params"], **v["model_state"]}, *xs, **mode)

    return Traced(fn, jax.eval_shape(init, jax.random.key(0), *inputs), init)


def _nnx(model: Any) -> Traced:
    nnx = sys.modules["flax.nnx"]
    if not isinstance(model, nnx.Module):
        maker = model
        known = inspect.signature(maker).parameters
        model = nnx.eval_shape(lambda: maker(rngs=nnx.Rngs(0)) if "rngs" in known else maker())
        if not isinstance(model, nnx.Module):
            raise GrowthError(f"{maker} makes a {type(model).__name__}, not an NNX module")
    graph, params, streams, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)
    spec = lambda part: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.to_pure_dict(part)
    )

    def fn(v: PyTree, *xs: Any) -> PyTree:
        merged = nnx.merge(graph, v["params"], _seeds(streams), v["model_state"])
        merged.eval()
        with jax.numpy_dtype_promotion("standard"):
            return merged(*xs)

    def _seeds(part: Any) -> PyTree:
        def one(x: Any) -> jax.Array:
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                key = jax.random.key(0)
                return jax.random.split(key, x.shape) if x.shape else key
            return jnp.zeros(x.shape, x.dtype)

        return jax.tree.map(one, nnx.to_pure_dict(part))

    return Traced(fn, {"params": spec(params), "model_state": spec(rest)})


def _model(model: Any, inputs: tuple[Any, ...]) -> Traced:
    """`trainkit.from_linen`'s and `from_nnx`'s results; their batch is here the inputs alone."""
    key = jax.random.key(0)

    def init(key: jax.Array, *xs: Any) -> PyTree:
        x = jnp.zeros(xs[0].shape, xs[0].dtype)
        return dict(zip(("params", "model_state"), model.init(key, {"x": x}), strict=True))

    def fn(v: PyTree, *xs: Any) -> PyTree:
        return model.apply(v["params"], v["model_state"], xs[0], key, train=False)[0]

    return Traced(fn, jax.eval_shape(init, key, *inputs), init)
